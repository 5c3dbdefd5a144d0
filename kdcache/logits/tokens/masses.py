"""Find tokens by their cumulated probability, at many positions at once, without adding up all V of each.

The blocks of all positions are added up in one line, as integers. Only blocks in which a point lies are looked into. So
a position's sums do not depend on its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kdcache.logits.tokens.arrays import array, cumulated, search, take
from kdcache.logits.tokens.distributions import SIZE, Distributions

if TYPE_CHECKING:
    from torch import Tensor

Ints = npt.NDArray[np.int64]
ONE = 1 << 40  # the integer that stands for probability one
MOST_ROWS = 1 << 20  # with more rows, their sum would not fit 64 bits


class Masses:
    """The probabilities that are left of n distributions. Each row has its tokens in their order.

    Attributes:
        totals: the rows' probabilities [n], in 1/ONE.
    """

    def __init__(self, given: Distributions) -> None:
        self._given = given
        parts = given.sums * (ONE / given.totals)[:, None]
        self._line = cumulated(parts.long().reshape(-1))
        ends = array(self._line[:: given.blocks])
        self._starts: Ints = ends[:-1]
        self.totals: Ints = np.diff(ends)

    def tokens_at(self, rows: Ints, points: npt.NDArray[np.float64]) -> Ints:
        """The tokens [m] at these points of the rows' cumulated masses. Each point is from 0 to the row's total."""
        import torch

        whole = np.minimum(points.astype(np.int64), (self.totals - 1).take(rows)) + self._starts.take(rows)
        point = torch.from_numpy(whole).to(self._line.device)
        block = search(self._line[1:], point)
        start = take(self._line, block)
        share = ((point - start).double() + 0.5) / (take(self._line, block + 1) - start)
        found = block * SIZE + _within(self._given.weights_of(block), share)
        return array(found) - rows * (self._given.blocks * SIZE)


def _within(weights: Tensor, share: Tensor) -> Tensor:
    """The token of a block [m] at this share, from 0 to 1, of the block's weights [m, SIZE]."""
    import torch

    # In float64: in float32 the last shares would be rounded to the block's end.
    ends = weights.cumsum(1, dtype=torch.float64)
    return (ends <= share[:, None] * ends[:, -1:]).sum(1)
