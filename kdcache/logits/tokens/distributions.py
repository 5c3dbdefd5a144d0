"""Distributions over a vocabulary at some positions, and values computed from them in as few passes over V as possible.

The passes over V take most of the time: for one position, a small model takes as long as ten passes. Each pass is made
for a few positions at a time. So it finds in the CPU's cache what the pass before it has left there.

The vocabulary is cut into blocks of SIZE tokens. A block's weight is the sum of its tokens' weights, in an order that
does not depend on the batch. A search for single tokens looks at the blocks first.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

from kdcache.logits.tokens.arrays import by_numpy, dots, places_of, sums, take_rows

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 16  # tokens of a block
BITS = 1 / math.log(2)  # bits in a nat
PASS = 1 << 19  # values of a pass, on a CPU


class Distributions:
    """softmax(logits) at n positions.

    Args:
        logits: float32 [n, V], log-probabilities, or values that differ from them by a constant per row; -inf is fine.

    Attributes:
        weights: [n x blocks, SIZE], exp(logits - the row's largest); after the V-th token, zeros. `split_off` sets the
            weights of the tokens that it takes out to zero.
        blocks: how many blocks a row has.
        sums: [n, blocks], the blocks' weights.
        totals: [n], the weight of all of a row's tokens.
    """

    def __init__(self, logits: Tensor) -> None:
        n, vocabulary = logits.shape
        self.logits = logits
        self.blocks = -(-vocabulary // SIZE)
        weights = logits.new_empty(n, self.blocks * SIZE)
        self.weights = weights.view(-1, SIZE)
        self.sums = logits.new_empty(n, self.blocks)
        self._largest, self._products = logits.new_empty(n), logits.new_empty(n)
        step = max(PASS // vocabulary, 1) if by_numpy(logits) else max(n, 1)
        for start in range(0, n, step):
            at = slice(start, start + step)
            given, made = logits[at], weights[at]
            self._largest[at] = given.amax(1)
            _powers(given, self._largest[at], made)
            self.sums[at] = sums(made.view(-1, self.blocks, SIZE))
            self._products[at] = dots(made[:, :vocabulary], given)
        self.totals = self.sums.sum(1)

    @cached_property
    def normalizers(self) -> Tensor:
        """log(sum of exp(logits)), [n]."""
        return self._largest + self.totals.log()

    def logprobs_at(self, row: Tensor, token: Tensor) -> Tensor:
        """Natural log-probabilities [m] of some tokens [m] of some rows [m]."""
        return (self.logits[row, token] - self.normalizers[row]).clamp_max(0)

    def logprobs(self) -> Tensor:
        """All natural log-probabilities, [n, V]."""
        return (self.logits - self.normalizers[:, None]).clamp_max_(0)

    def entropies(self) -> Tensor:
        """Entropies in nats, [n]; NaN if the logits are not all finite or -inf. Call this before `split_off`."""
        found = self.normalizers - self._products / self.totals
        if not bool(found.isfinite().all()):  # 0 * -inf
            weights = self.weights.view(len(self.logits), -1)[:, : self.logits.shape[1]]
            products = dots(weights, self.logits.masked_fill(weights == 0, 0))
            found = self.normalizers - products / self.totals
        return found

    def split_off(self, eps: float) -> tuple[Tensor, Tensor]:
        """Take all tokens with probability eps or more out of `weights` and `sums`.

        Returns:
            (rows [m], tokens [m]), in order.
        """
        bounds = eps * self.totals
        # A block weighs at least as much as its heaviest token, in floating point too.
        at = places_of(self.sums >= bounds[:, None])
        weights = take_rows(self.weights, at)
        heavy = weights >= bounds[at // self.blocks][:, None]
        rest = weights.masked_fill(heavy, 0)
        self.weights[at] = rest
        self.sums.view(-1)[at] = sums(rest)
        which, token = heavy.nonzero(as_tuple=True)
        block = at[which]
        row = block // self.blocks
        return row, (block - row * self.blocks) * SIZE + token


def _powers(logits: Tensor, largest: Tensor, powers: Tensor) -> None:
    """exp(logits - largest), followed by zeros. It is computed by powers of two, which takes half the time."""
    import torch

    vocabulary = logits.shape[1]
    powers[:, vocabulary:] = 0
    part = powers[:, :vocabulary]
    torch.add(-BITS * largest[:, None], logits, alpha=BITS, out=part)
    torch.exp2(part, out=part)
