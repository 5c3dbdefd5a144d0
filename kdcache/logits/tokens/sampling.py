"""Draw what an estimator stores, at many positions at once, on the device where the logits are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.logits.tokens.arrays import array
from kdcache.logits.tokens.distributions import Distributions
from kdcache.logits.tokens.estimators import RS, Estimator, Full, Threshold, TopK
from kdcache.logits.tokens.masses import ONE, Ints, Masses
from kdcache.logits.tokens.philox import uniforms

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """The entries of n positions, one position after the other."""

    heads: Ints  # [n], the number of entries stored with their log-probability
    tails: Ints  # [n], the number of sampled entries in each draw
    head_ids: Ints  # [sum of heads], ascending within a position; empty with `Full`, which stores all tokens
    head_logprobs: npt.NDArray[np.float32]  # [sum of heads], natural
    tail_ids: Ints  # [sum of draws x tails]: within a position one draw after the other, each ascending


def draw(estimator: Estimator, logits: Any, rows: npt.ArrayLike, positions: npt.ArrayLike) -> Drawn:
    """The entries that an estimator stores for some distributions.

    Args:
        logits: float32 [n, V], or log-probabilities, a tensor on any device or an array; -inf is fine.
        rows, positions: integers [n] that say where these distributions belong. With the seed they decide the draws.
    """
    import torch

    numbers = random_numbers(estimator, np.asarray(rows, np.int64), np.asarray(positions, np.int64))
    return draw_with(estimator, Distributions(torch.as_tensor(logits)), numbers)


def random_numbers(estimator: Estimator, rows: Ints, positions: Ints) -> Numbers:
    """The random numbers of an estimator at some positions [n]: uniform, [n, as many as it needs]."""
    if isinstance(estimator, Threshold):
        return uniforms(estimator.seed, rows, positions)
    if isinstance(estimator, RS):
        parts = [
            uniforms(estimator.seed, rows, positions, one, estimator.n) for one in range(estimator.draws)
        ]
        return np.concatenate(parts, axis=1)
    return np.zeros((len(rows), 0))


def draw_with(estimator: Estimator, given: Distributions, numbers: Numbers) -> Drawn:
    """The entries that an estimator stores for n distributions, with their `random_numbers`.

    The weights of `given` may be used up. So ask for entropies before.
    """
    if isinstance(estimator, Threshold):
        return _threshold(estimator, given, numbers)
    if isinstance(estimator, RS):
        return _multinomial(estimator, given, numbers)
    if isinstance(estimator, TopK):
        return _top(given, estimator.most(given.logits.shape[1]))
    assert isinstance(estimator, Full)
    none = np.zeros(0, np.int64)
    n, vocabulary = given.logits.shape
    every = np.full(n, vocabulary, np.int64)
    return Drawn(every, np.zeros_like(every), none, array(given.logprobs()).reshape(-1), none)


def _threshold(estimator: Threshold, given: Distributions, offsets: Numbers) -> Drawn:
    row, token = given.split_off(estimator.eps)
    tail = Masses(given)
    counts = np.maximum(np.floor(tail.totals / (estimator.eps * ONE)).astype(np.int64), 1)
    counts[tail.totals == 0] = 0
    starts = (offsets + np.arange(estimator.draws) / estimator.draws) % 1.0  # [n, draws]
    run, k = _ragged(np.repeat(counts, estimator.draws))
    of_run = run // estimator.draws if estimator.draws > 1 else run
    steps = (starts.reshape(-1).take(run) + k) * (tail.totals / np.maximum(counts, 1)).take(of_run)
    tokens = tail.tokens_at(of_run, steps)
    heads = np.bincount(array(row), minlength=len(counts)).astype(np.int64)
    return Drawn(heads, counts, array(token), array(given.logprobs_at(row, token)), tokens)


def _multinomial(estimator: RS, given: Distributions, numbers: Numbers) -> Drawn:
    every = Masses(given)
    n = len(numbers)
    run = np.repeat(np.arange(n * estimator.draws), estimator.n)
    row = run // estimator.draws
    found = every.tokens_at(row, numbers.reshape(-1) * every.totals[row])
    none = np.zeros(n, np.int64)
    tokens = _sorted(run, found, given.logits.shape[1])
    return Drawn(none, np.full(n, estimator.n), np.zeros(0, np.int64), np.zeros(0, np.float32), tokens)


def _top(given: Distributions, k: int) -> Drawn:
    ids = given.logits.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    values = array(given.logits.gather(1, ids) - given.normalizers[:, None]).reshape(-1)
    heads = np.full(len(given.logits), k, np.int64)
    none = np.zeros(0, np.int64)
    return Drawn(heads, np.zeros_like(heads), array(ids).reshape(-1), values.clip(max=0), none)


def _ragged(counts: Ints) -> tuple[Ints, Ints]:
    """(row, number within the row) of all items. Row i has `counts[i]` items."""
    row = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return row, np.arange(len(row)) - first[row]


def _sorted(runs: Ints, tokens: Ints, vocabulary: int) -> Ints:
    """The tokens, ascending within each run. The runs [m] must be ascending."""
    return np.asarray(np.sort(runs * vocabulary + tokens) - runs * vocabulary)
