"""Whether models learned anything: a model that did not scores no more than the same answer for every row.

If neither a method nor plain fine-tuning learned anything, their equivalence says nothing about the method. So such a
comparison gets no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from kdcache.study import Study
from kdcache.study.metrics import unit_of

ROUNDING = 1e-4  # the tolerance of comparisons, since the files have six digits
NOTHING_LEARNED = "nothing learned"  # the outcome of a comparison


def unlearned_seeds(trials: pd.DataFrame, metric: str, majority: float) -> list[int]:
    """The seeds of trials that learned nothing, in the order of the table.

    Args:
        trials: rows of trials.csv of one configuration.
        majority: the score of one answer for every row, in the metric's unit.
    """
    unit = unit_of(metric)
    return [
        int(seed)
        for seed in trials["seed"][unit.worth(1.0) * trials[metric] <= unit.shown(majority) + ROUNDING]
    ]


def without_unlearned(
    comparisons: pd.DataFrame, trials: pd.DataFrame, study: Study, majorities: Mapping[str, float]
) -> pd.DataFrame:
    """comparisons.csv, with `equivalent` taken back if no seed of either side learned anything.

    The verdict is then `inconclusive`, the outcome `nothing learned`, and the note says why.

    Args:
        majorities: by task, the score of one answer for every row, in the task's first metric and its unit.
    """
    trials_of = dict(iter(trials.groupby(["task", "student", "regularizer"], sort=False)))
    baseline, judged = study.comparison.baseline, comparisons.copy()
    for place, row in comparisons[comparisons["verdict"] == "equivalent"].iterrows():
        task, student = str(row["task"]), str(row["student"])
        sides = [trials_of[task, student, name] for name in (str(row["regularizer"]), baseline)]
        if task in majorities and not any(
            _learned(side, str(row["metric"]), majorities[task]) for side in sides
        ):
            said = f"no seed of either does better than one answer for every row, {majorities[task]:.4g}"
            note = "; ".join(filter(None, [str(row["note"]), said]))
            judged.loc[place, ["verdict", "outcome", "note"]] = ["inconclusive", NOTHING_LEARNED, note]
    return judged


def _learned(trials: pd.DataFrame, metric: str, majority: float) -> bool:
    return len(unlearned_seeds(trials, metric, majority)) < len(trials)
