"""The claims of summary.json on many studies at once; tests check that they equal kdcache.statistics.claims.

Scores are [repetitions, tasks, students, arms, seeds], arm 0 the baseline; student 0 is from scratch, student 1
pretrained. Every function gives two masks [repetitions]: supported, and contradicted.
"""

from __future__ import annotations

import numpy as np

from simulation.procedure import (
    Array,
    Mask,
    against_baseline,
    differences,
    holm,
    interaction_differences,
    judge,
    paired_t,
    pooled_differences,
    tost,
)

ALPHA = 0.05
Claim = tuple[Mask, Mask]


def within_margin(scores: Array, margin: float) -> Claim:
    """(a) pretrained_within_margin: no regularizer changes a pretrained student's score by the margin or more."""
    pretrained = scores[:, :, 1:2]
    judged, d = judge(pretrained, margin), against_baseline(pretrained)
    beyond = np.any(_over_claim(np.minimum(1.0, 2 * np.minimum(*_beyond(d, margin)))), axis=-1)
    return np.all(judged.within.reshape(len(scores), -1), axis=-1) & ~beyond, beyond


def _beyond(d: Array, margin: float) -> tuple[Array, Array]:
    return paired_t(d, margin, "greater"), paired_t(d, -margin, "less")


def _over_claim(p: Array) -> Mask:
    """Which comparisons are rejected if all of a study are corrected together, [repetitions, comparisons]."""
    return np.asarray(holm(p.reshape(len(p), -1)) <= ALPHA)


def some_better(scores: Array, margin: float) -> Claim:
    """(b) scratch_some_better: some regularizer is better from scratch."""
    judged = judge(scores[:, :, :1], margin)
    gain = judged.difference.reshape(len(scores), -1) > 0
    better = np.any(_over_claim(judged.t_p) & gain, axis=-1)
    up, down = (judged.different & (sign * judged.difference > 0) for sign in (1, -1))
    no_gain = down | (judged.within & ~up)
    return better, np.all(no_gain.reshape(len(scores), -1), axis=-1) & ~better


def interaction(scores: Array, margin: float) -> Claim:
    """(c) interaction: the mean gain is larger from scratch; of the only pair, or pooled over pairs."""
    one = scores.shape[1] == 1
    d = interaction_differences(scores)[:, 0, -1] if one else pooled_differences(scores)[:, -1]
    supported = paired_t(d, 0.0, "greater") <= ALPHA
    return supported, ~supported & (paired_t(d, margin, "less") <= ALPHA)


def teacher_needed(scores: Array, margin: float) -> Claim:
    """(d) teacher_needed: the last arm (KD) is better than the mean of the others (teacher-free)."""
    d = _advantage(scores)
    different, gain = paired_t(d) <= ALPHA, d.mean(axis=-1)
    return different & (gain > 0), (different & (gain < 0)) | (
        (tost(d, margin) <= ALPHA) & ~(different & (gain > 0))
    )


def _advantage(scores: Array) -> Array:
    """Per seed KD's mean over tasks and students minus the teacher-free regularizers', [repetitions, seeds]."""
    kd, free = scores[..., -1, :], scores[..., 1:-1, :].mean(axis=-2)
    return differences(kd.mean(axis=(1, 2)), free.mean(axis=(1, 2)))
