"""What the best of n tried settings scores: the expected maximum of n draws from those that were tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def expected_best(scores: Sequence[float], lower: bool = False) -> list[float]:
    """The expected best score of 1, 2, ... N settings, drawn with replacement from the N that were tried.

    With the scores in rising order s_1 <= ... <= s_N, the best of n draws is s_i or less with probability (i/N)^n. So
    its expectation is sum_i s_i ((i/N)^n - ((i-1)/N)^n). For n = 1 it is the mean of the scores. The N-th is below the
    best of them: by chance a draw misses it.

    Args:
        scores: one a setting, each the mean over its seeds; at least one.
        lower: whether a lower score is better.
    """
    signed = np.sort(-np.asarray(scores, dtype=float) if lower else np.asarray(scores, dtype=float))
    draws = np.arange(1, len(signed) + 1)[:, None]
    below = (np.arange(len(signed) + 1) / len(signed)) ** draws  # [n, i]: all n draws are among the i lowest
    best = (np.diff(below, axis=1) * signed).sum(axis=1)
    return [float(value) for value in (-best if lower else best)]
