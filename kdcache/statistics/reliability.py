"""How often is a model right when it says it is 80% sure? In the layout of metrics/reliability.csv.

The numbers of a reliability diagram (DeGroot, Fienberg 1983; Guo et al. 2017) with the bins of `scoring.ece`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import softmax

from kdcache.results.schema import ReliabilityRow, frame
from kdcache.study import Study
from kdcache.tasks.scoring import ECE_BINS

Blocks: TypeAlias = Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]]  # logits [n, K] and labels [n]
Read: TypeAlias = Callable[[str, str, str], Blocks]  # task, student, regularizer


def reliability_table(study: Study, read: Read) -> pd.DataFrame:
    """One row per configuration, the baseline included, and bin that has rows; classification tasks only.

    A row is in the bin (low, high] of its largest probability. rows: validation rows in it, all seeds together;
    confidence: their mean largest probability; accuracy: the share of them that is right; both 0..1.

    Args:
        read: a configuration's validation logits and labels, in pieces, all seeds.
    """
    rows: list[dict[str, Any]] = []
    for task, student, regularizer in study.configurations():
        if not study.tasks[task].regression:
            names = {"task": task, "student": student, "init": study.students[student].init}
            bins = reliability_bins(read(task, student, regularizer))
            rows += [names | {"regularizer": regularizer} | bin_ for bin_ in bins]
    return frame(ReliabilityRow, rows)


def reliability_bins(blocks: Blocks, bins: int = ECE_BINS) -> list[dict[str, Any]]:
    """low, high, rows, confidence and accuracy of every bin that has rows."""
    sums = np.zeros((3, bins))  # rows, confidence, right
    for logits, labels in blocks:
        confidence = softmax(np.asarray(logits, dtype=np.float64), axis=1).max(axis=1)
        right = logits.argmax(axis=1) == labels
        index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
        for total, weights in zip(sums, (np.ones(len(labels)), confidence, right), strict=True):
            total += np.bincount(index, weights=weights, minlength=bins)
    return [
        {"low": place / bins, "high": (place + 1) / bins, "rows": int(count)}
        | {"confidence": float(confidence / count), "accuracy": float(right / count)}
        for place, (count, confidence, right) in enumerate(sums.T)
        if count
    ]
