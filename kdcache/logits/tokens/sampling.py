"""Select the entries that an estimator stores, at many positions at once, on the log-probabilities' device.

Probabilities are rounded to multiples of 2^-30 and added as integers, so that sums do not depend on the order: the same
log-probabilities give the same entries in any batch, on any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdcache.logits.tokens.estimators import RS, Estimator, Full, Threshold, TopK
from kdcache.logits.tokens.philox import uniforms

if TYPE_CHECKING:
    from torch import Tensor

Ints = npt.NDArray[np.int64]
ONE = 1 << 30  # the integer that stands for probability one; a sum of 64 tail tokens fits 32 bits
BLOCK = 64  # tokens whose sum is kept: a draw first finds its block, then its token


@dataclass(frozen=True)
class Drawn:
    """The entries of n positions, one position after the other."""

    heads: Ints  # [n], the number of entries stored with their log-probability
    tails: Ints  # [n], the number of sampled entries in each draw
    head_ids: Ints  # [sum of heads], ascending within a position; empty with `Full`, which stores all tokens
    head_logprobs: npt.NDArray[np.float32]  # [sum of heads], natural
    tail_ids: Ints  # [sum of draws x tails]: within a position one draw after the other, each ascending


def draw(estimator: Estimator, logprobs: Any, rows: npt.ArrayLike, positions: npt.ArrayLike) -> Drawn:
    """The entries that an estimator stores for some distributions.

    Args:
        logprobs: natural log-probabilities [n, V], float32, a tensor on any device or an array; -inf is fine.
        rows, positions: integers [n], the row id and position of each distribution; with the seed they decide the
            draws.
    """
    import torch

    values = torch.as_tensor(logprobs)
    at = np.asarray(rows, np.int64), np.asarray(positions, np.int64)
    if isinstance(estimator, Threshold):
        return _threshold(estimator, values, *at)
    if isinstance(estimator, RS):
        return _multinomial(estimator, values, *at)
    if isinstance(estimator, TopK):
        return _top(values, estimator.most(values.shape[1]))
    assert isinstance(estimator, Full)
    none = np.zeros(0, np.int64)
    every = np.full(len(values), values.shape[1], np.int64)
    return Drawn(every, np.zeros_like(every), none, _array(values).reshape(-1), none)


def _threshold(estimator: Threshold, logprobs: Tensor, rows: Ints, positions: Ints) -> Drawn:
    probabilities = logprobs.exp()
    flat, heads = _at_least(probabilities, estimator.eps)
    tail = _Masses(probabilities, flat)
    counts = np.maximum(np.floor(tail.totals / (estimator.eps * ONE)).astype(np.int64), 1)
    counts[tail.totals == 0] = 0
    offsets = uniforms(estimator.seed, rows, positions)
    shifts = np.arange(estimator.draws) / estimator.draws
    start = (offsets + shifts) % 1.0  # [n, draws]
    row, k = _ragged(np.repeat(counts, estimator.draws))
    row, which = row // estimator.draws, row % estimator.draws
    steps = (start[row, which] + k) * (tail.totals[row] / counts[row])
    head_logprobs = _array(logprobs.reshape(-1)[flat])
    return Drawn(heads, counts, _array(flat % logprobs.shape[1]), head_logprobs, tail.tokens_at(row, steps))


def _multinomial(estimator: RS, logprobs: Tensor, rows: Ints, positions: Ints) -> Drawn:
    every = _Masses(logprobs.exp(), None)
    n, each = len(rows), estimator.n
    parts = [uniforms(estimator.seed, rows, positions, one, each) for one in range(estimator.draws)]
    points = np.sort(np.stack(parts, axis=1), axis=2) * every.totals[:, None, None]  # [n, draws, each]
    row = np.repeat(np.arange(n), estimator.draws * each)
    tokens = every.tokens_at(row, points.reshape(-1))
    none = np.zeros(n, np.int64)
    return Drawn(none, np.full(n, each), np.zeros(0, np.int64), np.zeros(0, np.float32), tokens)


def _top(logprobs: Tensor, k: int) -> Drawn:
    ids = logprobs.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    values = _array(logprobs.gather(1, ids)).reshape(-1)
    heads = np.full(len(logprobs), k, np.int64)
    none = np.zeros(0, np.int64)
    return Drawn(heads, np.zeros_like(heads), _array(ids).reshape(-1), values, none)


def _at_least(probabilities: Tensor, eps: float) -> tuple[Tensor, Ints]:
    """The flat places of all tokens with probability eps or more, in order, and their number in each row."""
    import torch

    chosen = probabilities >= eps
    if chosen.is_cpu:  # NumPy is several times faster here
        flat = torch.from_numpy(np.flatnonzero(chosen.numpy()))
    else:
        flat = chosen.reshape(-1).nonzero().reshape(-1)
    width = probabilities.shape[1]
    return flat, np.bincount(_array(flat) // width, minlength=len(probabilities)).astype(np.int64)


def _ragged(counts: Ints) -> tuple[Ints, Ints]:
    """(row, number within the row) of all items, where row i has `counts[i]` items."""
    row = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return row, np.arange(len(row)) - first[row]


class _Masses:
    """Probabilities [n, V] as integers, without the heads, with cumulative sums to look up a token by its mass.

    The given tensor is overwritten.
    """

    def __init__(self, probabilities: Tensor, heads: Tensor | None) -> None:
        import torch

        n, vocabulary = probabilities.shape
        blocks = -(-vocabulary // BLOCK)
        values = probabilities.mul_(ONE).round_().to(torch.int32)  # in place: less memory to touch
        if heads is not None:
            values.view(-1)[heads] = 0
        if vocabulary % BLOCK:
            values = torch.nn.functional.pad(values, (0, blocks * BLOCK - vocabulary))
        self.values = values.view(n, blocks, BLOCK)
        self.ends = _cumulated(self.values.sum(dim=2, dtype=torch.int32), torch.int64)
        self.totals: Ints = _array(self.ends[:, -1])

    def tokens_at(self, rows: Ints, points: npt.NDArray[np.float64]) -> Ints:
        """The tokens [m] at these points of the rows' cumulative mass; each point lies from 0 to its row's total."""
        import torch

        whole = np.minimum(points.astype(np.int64), self.totals[rows] - 1)
        row, point = (torch.from_numpy(part).to(self.ends.device) for part in (rows, whole))
        block = self._blocks(row, point)
        within = _cumulated(self.values[row, block], torch.int32)
        rest = point - self.ends[row, block] + within[:, -1]  # the point, counted from the block's beginning
        token = block * BLOCK + (within <= rest[:, None]).sum(1)
        return _array(token)

    def _blocks(self, row: Tensor, point: Tensor) -> Tensor:
        """The first block of each row that ends after the point: one search in one ascending array of all blocks."""
        import torch

        n, blocks = self.ends.shape
        height = 2 * ONE  # more than any row's total
        line = self.ends + torch.arange(n, device=row.device)[:, None] * height
        found = torch.searchsorted(line.reshape(-1), point + row * height, right=True)
        return found - row * blocks


def _cumulated(values: Tensor, dtype: Any) -> Tensor:
    """Cumulative sums along the last dimension."""
    import torch

    if not values.is_cpu:
        return values.cumsum(1, dtype=dtype)
    kind = np.int64 if dtype == torch.int64 else np.int32
    return torch.from_numpy(np.cumsum(values.numpy(), axis=1, dtype=kind))  # several times faster here


def _array(values: Tensor) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy()
