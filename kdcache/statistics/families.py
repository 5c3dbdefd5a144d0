"""Several comparisons at once: which of them form a family, and p-values corrected over a family."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdcache.errors import ComparisonError
from kdcache.study.looks import Correction

Family: TypeAlias = Literal["student", "task", "study"]


def family_key(family: Family, task: str, student: str) -> tuple[str, ...]:
    """The key of a comparison's family: comparisons with equal keys are corrected together.

    `student`: the regularizers of one student on one task; `task`: all students of a task; `study`:
    everything.
    """
    keys: dict[Family, tuple[str, ...]] = {"student": (task, student), "task": (task,), "study": ()}
    return keys[family]


def correct(p_values: ArrayLike, method: Correction) -> NDArray[np.float64]:
    """Corrected p-values, in the given order; a comparison is significant if its corrected p <= alpha.

    `holm` (Holm 1979) and `bonferroni` bound the chance of any false rejection in the family, whatever the
    dependence; `fdr_bh` (Benjamini and Hochberg 1995) bounds the expected share of false rejections.

    A comparison that could not be tested still belongs to the declared family: give it p = 1. (Leaving it out would
    make it easier for the others.)

    Raises:
        ComparisonError: a p-value is NaN or outside 0..1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ComparisonError(f"p-values must be a list of numbers in 0..1, found {p.tolist()}")
    if p.size == 0 or method == "none":
        return p.copy()
    if method == "bonferroni":
        return np.minimum(1.0, p * p.size)
    return _holm(p) if method == "holm" else _benjamini_hochberg(p)


def _holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Step down: multiply the i-th smallest of m p-values by m - i + 1, but never go below its predecessor."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    return _unsort(np.minimum(1.0, stepped), order)


def _benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Step up: multiply the i-th smallest of m p-values by m / i, but never go above its successor."""
    order = np.argsort(p, kind="stable")
    scaled = p[order] * p.size / np.arange(1, p.size + 1)
    return _unsort(np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1]), order)


def _unsort(values: NDArray[np.float64], order: NDArray[np.intp]) -> NDArray[np.float64]:
    result = np.empty_like(values)
    result[order] = values
    return result


def correct_by_family(
    p_values: Sequence[float | None], keys: Sequence[Hashable], method: Correction
) -> list[float | None]:
    """p-values corrected family by family; `None` (could not be tested) counts as p = 1 and stays `None`."""
    result: list[float | None] = [None] * len(p_values)
    for key in dict.fromkeys(keys):
        members = [row for row, other in enumerate(keys) if other == key]
        raw = [p_values[row] for row in members]
        corrected = correct([1.0 if p is None else p for p in raw], method)
        for row, before, after in zip(members, raw, corrected, strict=True):
            result[row] = None if before is None else float(after)
    return result


def level(alpha: float, size: int, method: Correction) -> float:
    """The level at which a comparison rejects, whatever the other `size - 1` comparisons of its family show.

    It is alpha / size for every correction (the first step of Holm and of Benjamini-Hochberg), and alpha for none.
    Detectable effects are computed at this level, at which verdicts are made, not at the more favourable alpha.
    """
    return alpha if method == "none" else alpha / max(1, size)
