"""A permutation test with the task as block: does a method differ from the baseline on these tasks?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdcache.errors import ComparisonError
from kdcache.statistics import significance

CHUNK = 2_000_000  # random signs held at once


def stratified_permutation(tasks: Sequence[ArrayLike], seed: int = 0) -> float | None:
    """Two-sided p for the mean over tasks of the mean paired difference; `None` below two differences.

    If a method has no effect on any of these tasks, the sign of each matched seed's difference is a coin flip, so every
    pattern of signs within the tasks is equally likely. No scores are exchanged between tasks, and all tasks have the
    same weight, whatever their numbers of seeds. Up to 16 differences all patterns are counted (exact). Beyond, p is
    (1 + as extreme) / (1 + draws) over `significance.RESAMPLES` seeded draws and the observed pattern (Phipson and
    Smyth 2010).

    Args:
        tasks: each task's differences of matched seeds, [seeds]; the numbers of seeds may differ.
    """
    blocks = [np.asarray(block, dtype=np.float64) for block in tasks]
    if any(block.ndim != 1 or not block.size or not np.isfinite(block).all() for block in blocks):
        raise ComparisonError("expected one or more finite differences for each task")
    if sum(block.size for block in blocks) < 2:
        return None
    return flips(np.concatenate([block / (block.size * len(blocks)) for block in blocks]), seed)


def flips(d: NDArray[np.float64], seed: int = 0) -> float:
    """Two-sided p of the sum of `d` under sign flips: exact up to 16 values, else seeded draws."""
    return significance.sign_flip(d) if d.size <= significance.EXACT else _sampled(d, seed)


def _sampled(d: NDArray[np.float64], seed: int) -> float:
    """The sampled part of `significance.sign_flip`, but in chunks, since tasks x seeds can be thousands.

    The signs are drawn for the sorted absolute differences (the null distribution is the same), so that the order and
    the signs of the differences do not change the draws.
    """
    size = np.sort(np.abs(d))
    observed = abs(float(d.sum())) - significance.ROUNDING * float(size.sum())
    rng = np.random.default_rng(seed)
    extreme, remaining, rows = 0, significance.RESAMPLES, max(1, CHUNK // d.size)
    while remaining:
        count = min(rows, remaining)
        signs = rng.integers(0, 2, size=(count, d.size), dtype=np.int8) * 2.0 - 1.0
        extreme += int(np.sum(np.abs(signs @ size) >= observed))
        remaining -= count
    return (1 + extreme) / (1 + significance.RESAMPLES)
