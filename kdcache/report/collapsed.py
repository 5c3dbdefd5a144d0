"""The section of seeds that learned nothing: trials that score no more than the same answer for every row would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from kdcache.report.sections import WithoutCharts
from kdcache.results.reading import Metrics, rows_of
from kdcache.results.schema import TeacherRow
from kdcache.statistics import wording
from kdcache.statistics.learned import unlearned_seeds
from kdcache.study import Study
from kdcache.study.metrics import unit_of


@dataclass(frozen=True)
class Collapsed:
    """A configuration in which some seeds learned nothing; scores in the metric's unit."""

    task: str
    student: str
    regularizer: str
    seeds: list[int]
    trials: int
    majority: float
    metric: str

    @property
    def sentence(self) -> str:
        name = wording.configuration(self.task, self.student)
        plural = "seed" if len(self.seeds) == 1 else "seeds"
        metric, majority = wording.metric(self.metric), wording.score(self.majority, unit_of(self.metric))
        return (
            f"{name}, {self.regularizer}: {plural} {wording.listing(map(str, self.seeds))} of {self.trials} learned "
            f"nothing: {metric} {_no_better(self.metric)} {majority}, what one answer for every row has."
        )


@dataclass(frozen=True)
class CollapsedSection(WithoutCharts):
    template: ClassVar[str] = "sections/collapsed.html.j2"
    rows: list[Collapsed]


def make_section(metrics: Metrics, study: Study) -> CollapsedSection | None:
    rows = collapsed(metrics, study)
    return CollapsedSection(rows) if rows else None


def collapsed(metrics: Metrics, study: Study) -> list[Collapsed]:
    """The configurations with such seeds, in the order of trials.csv."""
    least = majorities(metrics)
    rows = []
    for name, trials in metrics.trials.groupby(["task", "student", "regularizer"], sort=False):
        task, student, method = map(str, name)
        if task not in least or task not in study.tasks:
            continue
        metric = study.tasks[task].metrics[0]
        seeds = unlearned_seeds(trials, metric, least[task])
        if seeds:
            rows.append(Collapsed(task, student, method, seeds, len(trials), least[task], metric))
    return rows


def majorities(metrics: Metrics) -> Mapping[str, float]:
    """For each task, the score of the same answer for every row, in the task's first metric and its unit.

    In older metrics files it is known only for tasks with a teacher.
    """
    facts = metrics.provenance.get("tasks", {})
    judged = dict(zip(metrics.comparisons["task"], metrics.comparisons["metric"], strict=True))
    known = {
        name: unit_of(judged.get(name, "")).size * of_task["majority"]
        for name, of_task in facts.items()
        if of_task.get("majority") is not None
    }
    taught = {
        row.task: row.majority for row in rows_of(TeacherRow, metrics.teachers) if row.majority is not None
    }
    return {**taught, **known}


def _no_better(metric: str) -> str:
    return "at or below" if unit_of(metric).sign > 0 else "at or above"
