"""Which sequences a step sees, and what the model has to predict in them.

All of it is a function of (seed, step): the first steps see short pieces, an epoch visits every sequence in a new
order, and a resumed run draws the numbers that an uninterrupted one would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tools.pretraining.recipe import PretrainingRecipe
from tools.pretraining.sequences import Sequences

Ids = npt.NDArray[np.int64]

# The streams of random numbers; a stream and a counter name a generator (see `generator`).
ORDER, MASKING, HOLD_OUT, VALIDATION = range(4)


def generator(seed: int, stream: int, counter: int) -> np.random.Generator:
    """The random numbers of one step, epoch or split: the same whether or not the run was interrupted."""
    return np.random.default_rng([seed, stream, counter])


def hold_out(sequences: Sequences, fraction: float, seed: int) -> tuple[Sequences, Sequences]:
    """Split [N, S] at random into training and validation sequences, at least one of the latter."""
    order = generator(seed, HOLD_OUT, 0).permutation(len(sequences))
    held = max(1, round(fraction * len(sequences)))
    return sequences[np.sort(order[held:])], sequences[np.sort(order[:held])]


@lru_cache(maxsize=1)
def _epoch_order(seed: int, epoch: int, rows: int) -> Ids:
    return generator(seed, ORDER, epoch).permutation(rows)


def batch_at(sequences: Sequences, recipe: PretrainingRecipe, step: int) -> Ids:
    """The batch [B, S] of a step; an epoch visits all sequences in a new order, in whole batches.

    The first `short_tokens` come as more, shorter rows: with few positions, attention soon learns that neighbours
    matter. Otherwise it can stay on a plateau for long (sequence length warm-up, Li et al. 2022, arXiv 2108.06084).
    The `last_short_tokens` come as short rows too, each with its own first and last token, like a short text in
    fine-tuning. docs/pretraining.md has the measurements.
    """
    epoch, index = divmod(step, len(sequences) // recipe.batch_size)
    order = _epoch_order(recipe.seed, epoch, len(sequences))
    batch = sequences[order[index * recipe.batch_size : (index + 1) * recipe.batch_size]].astype(np.int64)
    done = step * recipe.tokens_per_step
    if done < recipe.short_tokens:
        return batch.reshape(-1, recipe.short_length)
    if recipe.last_short_tokens and done >= recipe.tokens - recipe.last_short_tokens:
        return _short_texts(batch, recipe)
    return batch


def _short_texts(batch: Ids, recipe: PretrainingRecipe) -> Ids:
    """The sequences, cut into short rows; those of BERT and RoBERTa begin with CLS and end with SEP."""
    rows = batch.reshape(-1, recipe.short_length)
    if recipe.family != "gpt2":
        rows[:, 0], rows[:, -1] = batch[0, 0], batch[0, -1]
    return rows


@dataclass(frozen=True)
class Predictions:
    """The task of a step: from `inputs` [B, S], predict `labels` [B, P] at `positions` [B, P]."""

    inputs: Tensor
    positions: Tensor
    labels: Tensor


def mask_tokens(
    batch: Ids, recipe: PretrainingRecipe, special: Ids, mask_id: int, rng: np.random.Generator
) -> Predictions:
    """BERT's objective (Devlin et al. 2019, section 3.1) at P positions a sequence.

    Of the predicted positions 80% read MASK, 10% a random ordinary token and 10% themselves. Special tokens are
    predicted only in sequences with fewer than P other tokens.

    Args:
        special: ids of the special tokens, sorted.
    """
    scores = rng.random(batch.shape) + np.isin(batch, special)
    positions = _lowest(scores, recipe.predictions(batch.shape[1]))
    labels = np.take_along_axis(batch, positions, axis=1)
    ordinary = np.setdiff1d(np.arange(recipe.vocab_size), special)
    random_tokens = ordinary[rng.integers(0, len(ordinary), size=labels.shape)]
    kind = rng.random(labels.shape)
    shown = np.where(kind < 0.8, mask_id, np.where(kind < 0.9, random_tokens, labels))
    inputs = batch.copy()
    np.put_along_axis(inputs, positions, shown, axis=1)
    return Predictions(torch.from_numpy(inputs), torch.from_numpy(positions), torch.from_numpy(labels))


def sample_next_tokens(batch: Ids, recipe: PretrainingRecipe, rng: np.random.Generator) -> Predictions:
    """Causal modelling at P random positions a sequence: an unbiased estimate of the loss at all of them."""
    scores = rng.random((batch.shape[0], batch.shape[1] - 1))
    positions = _lowest(scores, recipe.predictions(batch.shape[1]))
    labels = np.take_along_axis(batch, positions + 1, axis=1)
    return Predictions(torch.from_numpy(batch), torch.from_numpy(positions), torch.from_numpy(labels))


def _lowest(scores: npt.NDArray[np.float64], count: int) -> Ids:
    """The columns, ascending, of the `count` lowest scores in each row."""
    return np.sort(np.argpartition(scores, count - 1, axis=1)[:, :count], axis=1)
