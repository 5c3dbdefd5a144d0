"""The expected score of the best of n settings: the expected maximum of n draws from the settings that were tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def expected_best(scores: Sequence[float], lower: bool = False) -> list[float]:
    """The expected best score of 1, 2, ... N settings, drawn with replacement from the N tried settings.

    Let s_1 <= ... <= s_N be the sorted scores. The best of n draws is s_i or less with probability (i/N)^n, so its
    expectation is sum_i s_i ((i/N)^n - ((i-1)/N)^n). For n = 1 this is the mean score. For n = N it is below the best
    score, since N draws can miss the best setting.

    Args:
        scores: one a setting, each the mean over its seeds; at least one.
        lower: whether a lower score is better.
    """
    signed = np.sort(-np.asarray(scores, dtype=float) if lower else np.asarray(scores, dtype=float))
    draws = np.arange(1, len(signed) + 1)[:, None]
    below = (np.arange(len(signed) + 1) / len(signed)) ** draws  # [n, i]: all n draws are among the i lowest
    best = (np.diff(below, axis=1) * signed).sum(axis=1)
    return [float(value) for value in (-best if lower else best)]
