"""Find tokens by their cumulated probability, at many positions at once, without adding up all V of each.

The vocabulary is cut into strided blocks: block k has the tokens k, k + K, k + 2K, ... A block's probability is the sum
of SIZE numbers in a fixed order, a position's blocks are added up as integers, and only blocks that a point lies in are
looked into. So every sum has one order: the same probabilities give the same tokens in any batch, on any device.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kdcache.logits.tokens.distributions import array

if TYPE_CHECKING:
    from torch import Tensor

Ints = npt.NDArray[np.int64]
ONE = 1 << 40  # the integer that stands for probability one
SIZE = 16  # tokens of a block


class Masses:
    """Probabilities [n, V], each row's in the order of its blocks."""

    def __init__(self, probabilities: Tensor) -> None:
        import torch

        n, vocabulary = probabilities.shape
        if vocabulary % SIZE:
            probabilities = torch.nn.functional.pad(probabilities, (0, -vocabulary % SIZE))
        self.values = probabilities.view(n, SIZE, -1)
        self.blocks = self.values.shape[2]
        sums = (_block_sums(self.values).double() * ONE).round_().to(torch.int64)
        self.ends = torch.from_numpy(np.cumsum(sums.numpy(), axis=1)) if sums.is_cpu else sums.cumsum(1)
        self.totals: Ints = array(self.ends[:, -1])

    def tokens_at(self, rows: Ints, points: npt.NDArray[np.float64]) -> Ints:
        """The tokens [m] on which these points of the rows' cumulated masses lie; each from 0 to the row's total."""
        import torch

        whole = np.minimum(points.astype(np.int64), self.totals[rows] - 1)
        row, point = (torch.from_numpy(part).to(self.ends.device) for part in (rows, whole))
        block, share = self._blocks(row, point)
        ends = self._within(row, block)
        return array(block + self.blocks * (ends <= share * ends[-1]).sum(0))

    def _blocks(self, row: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """The blocks in which the points lie, and how far in, from 0 to 1: a search in one rising line of all rows."""
        import torch

        n, blocks = self.ends.shape
        height = 2 * ONE  # more than any row's total
        line = (self.ends + torch.arange(n, device=row.device)[:, None] * height).reshape(-1)
        flat = torch.searchsorted(line, point + row * height, right=True)
        end = _take(self.ends.reshape(-1), flat)
        block = flat - row * blocks
        start = _take(self.ends.reshape(-1), (flat - 1).clamp_min(0)) * (block > 0)
        return block, ((point - start).double() + 0.5) / (end - start).double()

    def _within(self, row: Tensor, block: Tensor) -> Tensor:
        """The blocks' cumulated probabilities, float64 [SIZE, m]."""
        flat, places = self.values.reshape(-1), row * (SIZE * self.blocks) + block
        parts = [_take(flat[k * self.blocks :], places) for k in range(SIZE)]
        return _cumulated(parts)


def _block_sums(values: Tensor) -> Tensor:
    """Sums float32 [n, blocks] of [n, SIZE, blocks], added up from the first to the last."""
    import torch

    if values.is_cpu:
        return torch.from_numpy(values.numpy().sum(axis=1))
    sums = values[:, 0].clone()
    for k in range(1, SIZE):
        sums += values[:, k]
    return sums


def _take(values: Tensor, places: Tensor) -> Tensor:
    import torch

    if values.is_cpu:  # NumPy is several times faster here
        return torch.from_numpy(values.numpy().take(places.numpy()))
    return values[places]


def _cumulated(parts: Sequence[Tensor]) -> Tensor:
    """Sums float64 [SIZE, m] of the parts [m] so far, added up from the first to the last."""
    import torch

    if parts[0].is_cpu:
        return torch.from_numpy(np.cumsum([part.numpy() for part in parts], axis=0, dtype=np.float64))
    return torch.stack(list(itertools.accumulate(part.double() for part in parts)))
