"""Distributions over a vocabulary at some positions, and what is asked of them, in as few passes over V as it takes.

A pass over V is what time goes into here: one `exp` of V numbers can cost a tenth of a small model.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

IMPOSSIBLE = -1e4  # stands for log 0 where p log p is to be 0


class Distributions:
    """softmax(logits) at n positions.

    Args:
        logits: float32 [n, V], log-probabilities or any that differ from them by a constant a row; -inf is fine.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.probabilities: Tensor = logits.softmax(1)  # [n, V]

    @cached_property
    def normalizers(self) -> Tensor:
        """log(sum of exp(logits)), [n]: by the most probable token, which saves the sum."""
        return self.logits.amax(1) - self.probabilities.amax(1).log()

    def logprobs_at(self, row: Tensor, token: Tensor) -> Tensor:
        """Natural log-probabilities [m] of some tokens [m] of some rows [m]."""
        return (self.logits[row, token] - self.normalizers[row]).clamp_max(0)

    def logprobs(self) -> Tensor:
        """All natural log-probabilities, [n, V]."""
        return self.logits.log_softmax(1)

    def entropies(self) -> Tensor:
        """Entropies in nats, [n]; not a number where the logits are not all finite or -inf."""
        import torch

        found: Tensor = self.normalizers - torch.linalg.vecdot(self.probabilities, self.logits)
        if not bool(found.isfinite().all()):  # 0 * -inf
            found = -(self.probabilities * self.logprobs().clamp_min(IMPOSSIBLE)).sum(1)
        return found

    def at_least(self, eps: float) -> tuple[Tensor, Tensor]:
        """(rows [m], tokens [m]), in order, of all tokens of probability eps or more."""
        import torch

        if self.probabilities.is_cpu:  # NumPy is several times faster here
            flat = torch.from_numpy(np.flatnonzero(self.probabilities.numpy() >= np.float32(eps)))
        else:
            flat = (self.probabilities >= eps).reshape(-1).nonzero().reshape(-1)
        width = self.probabilities.shape[1]
        return flat // width, flat % width


def array(values: Tensor) -> npt.NDArray[Any]:
    """A tensor of any device as an array."""
    return values.detach().cpu().numpy()
