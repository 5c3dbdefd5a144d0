"""How often is a model right when it says it is 80% sure? In the layout of metrics/reliability.csv.

The numbers of a reliability diagram (DeGroot, Fienberg 1983; Guo et al. 2017) with the bins of `scoring.ece`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy.typing as npt
import pandas as pd

from kdcache.results.schema import ReliabilityRow
from kdcache.results.writing import tabulate
from kdcache.study import Study

Sureness: TypeAlias = npt.NDArray[Any]  # [3, bins], see `evaluation.bin_sureness`
ReadSureness: TypeAlias = Callable[[str, str, str], Sureness]  # from task, student, regularizer


def tabulate_reliability(study: Study, read: ReadSureness) -> pd.DataFrame:
    """One row per configuration (baselines included) and non-empty bin; classification tasks only.

    A validation row belongs to the bin (low, high] of its largest probability. rows: the bin's validation rows, all
    seeds together; confidence: their mean largest probability; accuracy: the share that is right; both 0..1.

    Args:
        read: gives a configuration's sureness on the validation rows, all seeds together.
    """
    rows = [
        ReliabilityRow(
            task=task, student=student, init=study.students[student].init, regularizer=regularizer, **facts
        )
        for task, student, regularizer in study.configurations()
        if not study.tasks[task].regression
        for facts in reliability_bins(read(task, student, regularizer))
    ]
    return tabulate(ReliabilityRow, rows)


def reliability_bins(sureness: Sureness) -> list[dict[str, Any]]:
    """low, high, rows, confidence and accuracy of every non-empty bin."""
    bins = sureness.shape[1]
    return [
        {"low": place / bins, "high": (place + 1) / bins, "rows": int(count)}
        | {"confidence": float(sure / count), "accuracy": float(right / count)}
        for place, (count, sure, right) in enumerate(sureness.T)
        if count
    ]
