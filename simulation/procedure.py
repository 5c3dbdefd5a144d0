"""The verdict procedure of kdcache.statistics on many studies at once.

Scores are arrays [repetitions, tasks, students, arms, seeds] in points; arm 0 is the baseline, the others are
the regularizers. p-values and verdicts are [repetitions, tasks, students, regularizers]. The rules are those
of kdcache.statistics.significance, families, verdicts and interactions, which take milliseconds a comparison. Tests
check that both agree, verdict for verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from kdcache.statistics import significance
from kdcache.statistics.families import Family

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

VERDICTS = ("better", "worse", "equivalent", "inconclusive")
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Judged:
    """The outcome of every comparison; each array [repetitions, tasks, students, regularizers]."""

    difference: Array
    t_p: Array
    t_p_corrected: Array
    tost_p: Array
    tost_p_corrected: Array
    different: Mask  # the corrected difference test rejects
    within: Mask  # the corrected TOST rejects

    @property
    def verdict(self) -> NDArray[np.intp]:
        """The verdict of each comparison, as an index into VERDICTS."""
        settled = np.where(self.within, 2, 3)
        return np.where(self.different, np.where(self.difference > 0, 0, 1), settled).astype(np.intp)


def judge(scores: Array, margin: float, family: Family = "student", alpha: float = 0.05) -> Judged:
    """Paired t and TOST of every regularizer against the baseline, each corrected by Holm over the family."""
    d = against_baseline(scores)
    t_p, tost_p = paired_t(d), tost(d, margin)
    t_corrected, tost_corrected = by_family(t_p, family), by_family(tost_p, family)
    return Judged(
        d.mean(axis=-1),
        t_p,
        t_corrected,
        tost_p,
        tost_corrected,
        t_corrected <= alpha,
        tost_corrected <= alpha,
    )


def against_baseline(scores: Array) -> Array:
    """Differences of matched seeds from the baseline, [repetitions, tasks, students, regularizers, seeds]."""
    return differences(scores[..., 1:, :], scores[..., :1, :])


def differences(x: Array, y: Array) -> Array:
    """`x - y` over the last axis, equal where they agree to rounding (as significance.differences)."""
    d = x - y
    noise = significance.ROUNDING * np.maximum(
        np.abs(x).max(-1, keepdims=True), np.abs(y).max(-1, keepdims=True)
    )
    d = np.where(np.ptp(d, axis=-1, keepdims=True) <= noise, d.mean(axis=-1, keepdims=True), d)
    return np.where(np.abs(d) <= noise, 0.0, d)


def constant(d: Array) -> Mask:
    """Which samples (last axis) have no spread apart from rounding."""
    return np.asarray(np.ptp(d, axis=-1) <= significance.ROUNDING * np.abs(d).max(axis=-1))


def paired_t(d: Array, null: float = 0.0, alternative: significance.Alternative = "two-sided") -> Array:
    """p of the t-test over the last axis, or of the sign-flip test for a sample without spread."""
    n, flat = d.shape[-1], constant(d)
    mean, error = d.mean(axis=-1), d.std(axis=-1, ddof=1) / math.sqrt(n)
    t = (mean - null) / np.where(flat, 1.0, error)
    if alternative == "two-sided":
        p = 2 * special.stdtr(n - 1, -np.abs(t))
    else:
        p = special.stdtr(n - 1, -t if alternative == "greater" else t)
    p = np.maximum(p, TINY)
    if flat.any():
        p[flat] = _sign_flip(np.sign(mean[flat] - null), n, alternative)
    return np.asarray(p)


def _sign_flip(signs: Array, n: int, alternative: significance.Alternative) -> Array:
    """The sign-flip p of `n` equal differences, which depends on their sign only."""
    p = {sign: significance.sign_flip(np.full(n, sign), alternative) for sign in np.unique(signs)}
    return np.array([p[sign] for sign in signs])


def tost(d: Array, margin: float) -> Array:
    """p of equivalence, the larger of the two one-sided tests."""
    return np.maximum(paired_t(d, -margin, "greater"), paired_t(d, margin, "less"))


def holm(p: Array) -> Array:
    """Corrected p-values over the last axis (Holm 1979)."""
    order = np.argsort(p, axis=-1, kind="stable")
    stepped = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    corrected = np.minimum(1.0, np.maximum.accumulate(stepped, axis=-1))
    result = np.empty_like(p)
    np.put_along_axis(result, order, corrected, axis=-1)
    return result


def by_family(p: Array, family: Family) -> Array:
    """Holm within each family of p [repetitions, tasks, students, regularizers]."""
    repetitions, tasks, students, regularizers = p.shape
    sizes = {
        "student": regularizers,
        "task": students * regularizers,
        "study": tasks * students * regularizers,
    }
    return holm(p.reshape(repetitions, -1, sizes[family])).reshape(p.shape)


def interaction_differences(scores: Array) -> Array:
    """Per seed the gain from scratch (student 0) minus that when pretrained (student 1).

    [repetitions, tasks, regularizers + 1, seeds]; the last regularizer is the mean over the others.
    """
    scratch, pretrained = _gains(scores)
    return differences(scratch, pretrained)


def interaction_pair(scores: Array, family: Family = "student") -> Array:
    """One-sided p of "helps more from scratch", [repetitions, tasks, regularizers + 1].

    Corrected over the family, with the pair of students in the student's place; the mean stands alone.
    """
    p = paired_t(interaction_differences(scores), 0.0, "greater")
    corrected = by_family(p[:, :, None, :-1], family)[:, :, 0]
    return np.concatenate([corrected, p[..., -1:]], axis=-1)


def interaction_pooled(scores: Array) -> Array:
    """The same over two or more pairs, with each pair's mean as one value, [repetitions, regularizers + 1]."""
    p = paired_t(pooled_differences(scores), 0.0, "greater")
    return np.concatenate([holm(p[:, :-1]), p[:, -1:]], axis=-1)


def pooled_differences(scores: Array) -> Array:
    """Per pair the mean of `interaction_differences` over the seeds, [repetitions, regularizers + 1, tasks]."""
    scratch, pretrained = (np.moveaxis(gains.mean(axis=-1), 1, -1) for gains in _gains(scores))
    return differences(scratch, pretrained)


def _gains(scores: Array) -> tuple[Array, Array]:
    """Gains over the baseline from scratch and pretrained, each [repetitions, tasks, regularizers + 1, seeds]."""
    gains = scores[..., 1:, :] - scores[..., :1, :]
    gains = np.concatenate([gains, gains.mean(axis=-2, keepdims=True)], axis=-2)
    return gains[:, :, 0], gains[:, :, 1]
