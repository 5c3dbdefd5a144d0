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

from kdcache.logits.tokens.arrays import by_numpy, dots, places_of, sums, take, take_rows

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 16  # tokens of a block
BITS = 1 / math.log(2)  # bits in a nat
PASS = 1 << 19  # values of a pass, on a CPU
NEARLY = 0.99  # weights that are computed anew may be rounded otherwise: where a loop ends, torch.exp2 does


class Distributions:
    """softmax(logits) at n positions.

    Args:
        logits: float32 [n, V], log-probabilities, or values that differ from them by a constant per row; -inf is fine.

    Attributes:
        blocks: how many blocks a row has.
        sums: [n, blocks], the blocks' weights: sums of exp(logits - the row's largest). `split_off` takes tokens out.
        totals: [n], the weight of all of a row's tokens.
    """

    def __init__(self, logits: Tensor) -> None:
        n, vocabulary = logits.shape
        self.logits = logits
        self.blocks = -(-vocabulary // SIZE)
        self._bounds = logits.new_full((n,), math.inf)  # tokens of such a weight are taken out
        self.sums = logits.new_empty(n, self.blocks)
        self._largest, self._products = logits.new_empty(n), logits.new_empty(n)
        step = max(min(PASS // vocabulary, n), 1) if by_numpy(logits) else max(n, 1)
        room = logits.new_zeros(step, self.blocks * SIZE)  # after the V-th token it stays zero
        for start in range(0, n, step):
            at = slice(start, start + step)
            given, weights = logits[at], room[: n - start]
            self._largest[at] = given.amax(1)
            _powers(given, self._largest[at], weights[:, :vocabulary])
            self.sums[at] = sums(weights.view(-1, self.blocks, SIZE))
            self._products[at] = dots(weights[:, :vocabulary], given)
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
        import torch

        found = self.normalizers - self._products / self.totals
        if not bool(found.isfinite().all()):  # 0 * -inf
            every = torch.arange(self.sums.numel(), device=self.sums.device)
            weights = self.weights_of(every).view(len(self.logits), -1)[:, : self.logits.shape[1]]
            products = dots(weights, self.logits.masked_fill(weights == 0, 0))
            found = self.normalizers - products / self.totals
        return found

    def weights_of(self, block: Tensor) -> Tensor:
        """The weights [m, SIZE] of the tokens in some blocks [m]: zeros after the V-th token, and for tokens taken out.

        They are computed anew: a search looks into few blocks, and to keep the weights of all would take longer.
        """
        row = block // self.blocks
        logits = self._logits_of(row, block - row * self.blocks)
        weights = _powers(logits, take(self._largest, row), logits)
        return weights.masked_fill_(weights >= take(self._bounds, row)[:, None], 0)

    def _logits_of(self, row: Tensor, block: Tensor) -> Tensor:
        """The logits [m, SIZE] of a block of each of some rows [m]; -inf after the V-th token."""
        import torch

        vocabulary = self.logits.shape[1]
        if vocabulary % SIZE == 0 and self.logits.is_contiguous():
            return take_rows(self.logits.view(-1, SIZE), row * self.blocks + block)
        token = block[:, None] * SIZE + torch.arange(SIZE, device=block.device)
        logits = self.logits[row[:, None], token.clamp_max(vocabulary - 1)]
        return logits.masked_fill_(token >= vocabulary, -math.inf)

    def split_off(self, eps: float) -> tuple[Tensor, Tensor]:
        """Take all tokens with probability eps or more out of the weights and `sums`.

        Returns:
            (rows [m], tokens [m]), in order.
        """
        import torch

        bounds = eps * self.totals
        at = places_of(self.sums >= NEARLY * bounds[:, None])  # a block weighs as much as its heaviest token
        weights = self.weights_of(at)
        heavy = weights >= take(bounds, at // self.blocks)[:, None]
        self.sums.view(-1)[at] = sums(weights.masked_fill(heavy, 0))
        self._bounds = torch.minimum(self._bounds, bounds)
        which, token = heavy.nonzero(as_tuple=True)
        block = at[which]
        row = block // self.blocks
        return row, (block - row * self.blocks) * SIZE + token


def _powers(logits: Tensor, largest: Tensor, out: Tensor) -> Tensor:
    """exp(logits - largest). It is computed by powers of two, which takes half the time."""
    import torch

    torch.add(-BITS * largest[:, None], logits, alpha=BITS, out=out)
    return torch.exp2(out, out=out)
