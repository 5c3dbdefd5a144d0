"""Probabilities of logits, with NumPy alone. So the commands about caches work without the libraries of studies."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Floating = TypeVar("Floating", np.float32, np.float64)


def log_softmax(logits: npt.NDArray[Floating]) -> npt.NDArray[Floating]:
    """Log probabilities [..., K] of finite logits [..., K], in their precision."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs: npt.NDArray[Floating] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs
