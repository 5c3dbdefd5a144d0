"""Whether models learned anything: a model that did not scores no more than the same answer for every row.

If neither a method nor what it is compared with learned anything, their equivalence says nothing about the method. So
such a comparison gets no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from kdcache.statistics.against_teacher_free import methods
from kdcache.statistics.contests import ALL
from kdcache.statistics.interactions import pairs
from kdcache.study import Study
from kdcache.study.metrics import unit_of

ROUNDING = 1e-4  # the tolerance of comparisons, since the files have six digits
NOTHING_LEARNED = "nothing learned"  # the outcome of a comparison
NO_BETTER = "no seed of either does better than one answer for every row"
Cell: TypeAlias = tuple[str, str, Sequence[str]]  # task, student, and the methods that are compared


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

    The verdict is then `inconclusive`, the outcome `nothing learned`, and the note says why. Only those seeds count
    that the comparison used: they have a score, and are among the seeds of the look at which it stopped.

    Args:
        majorities: by task, the score of one answer for every row, in the task's first metric and its unit.
    """
    learning, judged = _Learning(trials, study, majorities), comparisons.copy()
    for place, row in comparisons[comparisons["verdict"] == "equivalent"].iterrows():
        sides = (row["regularizer"], study.comparison.baseline)
        said = learning.nothing((row["task"], row["student"], sides), row["look"])
        if said:
            changed = ["inconclusive", NOTHING_LEARNED, _joined(row["note"], said)]
            judged.loc[place, ["verdict", "outcome", "note"]] = changed
    return judged


def without_unlearned_cells(
    advantages: pd.DataFrame, trials: pd.DataFrame, study: Study, majorities: Mapping[str, float]
) -> pd.DataFrame:
    """The same for the rows of `compare_with_teacher_free`, which have no outcome.

    For a pooled row one task and student of which nobody learned anything are enough: the difference of zero there
    would make the mean smaller.
    """
    return _Learning(trials, study, majorities).take_back(advantages, "equivalent", _cells)


def without_unlearned_pairs(
    interactions: pd.DataFrame, trials: pd.DataFrame, study: Study, majorities: Mapping[str, float]
) -> pd.DataFrame:
    """The same for the `contradicted` rows of `compare_inits`: a student that learned nothing cannot gain."""
    return _Learning(trials, study, majorities).take_back(interactions, "contradicted", _cells_of_pairs)


def _cells_of_pairs(row: pd.Series[Any], study: Study) -> Iterator[Cell]:
    """Both students of each pair whose gains a row of `compare_inits` compares."""
    names = (
        list(study.methods())
        if row["regularizer"] == ALL
        else [row["regularizer"], study.comparison.baseline]
    )
    for task, *students in pairs(study):
        if row["scope"] == "pooled" or [task, *students] == [row["task"], row["scratch"], row["pretrained"]]:
            yield from ((task, student, names) for student in students)


def _cells(row: pd.Series[Any], study: Study) -> Iterator[Cell]:
    """What a row of `compare_with_teacher_free` compares, on each of its tasks and students."""
    others = methods(study)[1] if row["against"] == ALL else [row["against"]]
    for task, student in dict.fromkeys(name[:2] for name in study.configurations()):
        places = ((row["task"], task), (row["student"], student), (row["init"], study.students[student].init))
        if all(asked in (ALL, own) for asked, own in places):
            yield task, student, (row["regularizer"], *others)


def unlearned_of(notes: Iterable[str]) -> str:
    """The part of a row's note that says where nobody learned anything; nothing if no note does."""
    parts = (part for note in notes for part in note.split("; "))
    return next((part for part in parts if NO_BETTER in part), "")


def _joined(note: Any, said: str) -> str:
    return "; ".join(filter(None, [str(note), said]))


@dataclass(frozen=True)
class _Learning:
    trials: pd.DataFrame
    study: Study
    majorities: Mapping[str, float]

    def take_back(
        self, rows: pd.DataFrame, verdict: str, cells_of: Callable[[pd.Series[Any], Study], Iterable[Cell]]
    ) -> pd.DataFrame:
        """The rows, with a verdict made `inconclusive` where nobody learned anything of a cell; the note says which."""
        judged = rows.copy()
        for place, row in rows[rows["verdict"] == verdict].iterrows():
            reasons = ((cell, self.nothing(cell, row["look"])) for cell in cells_of(row, self.study))
            found = next((f"{task} / {student}: {said}" for (task, student, _), said in reasons if said), "")
            if found:
                judged.loc[place, ["verdict", "note"]] = ["inconclusive", _joined(row["note"], found)]
        return judged

    def nothing(self, cell: Cell, look: Any) -> str:
        """That nobody learned anything, in words; nothing if somebody did, or if the majority's score is unknown."""
        task, student, names = cell
        if task not in self.majorities:
            return ""
        used, metric = self._used(task, student, names, int(look)), self.study.tasks[task].metrics[0]
        if len(unlearned_seeds(used, metric, self.majorities[task])) < len(used):
            return ""
        return f"{NO_BETTER}, {self.majorities[task]:.4g}"

    def _used(self, task: str, student: str, names: Sequence[str], look: int) -> pd.DataFrame:
        """The trials of some methods that have a score, up to a look."""
        rows, metric = self.trials, self.study.tasks[task].metrics[0]
        seeds = self.study.seeds[: self.study.looks[look - 1]]
        own = (rows["task"] == task) & (rows["student"] == student) & rows["regularizer"].isin(names)
        return rows[own & rows["seed"].isin(seeds) & rows[metric].notna()]
