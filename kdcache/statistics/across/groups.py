"""The groups whose scores are compared over tasks: one student, or all students of one init.

A group's score on a task at a seed is the student's points, or the mean over the init's students. Several students on
one task are not several tasks, so they are first averaged to one value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from kdcache.statistics.evidence import Points
from kdcache.statistics.verdicts import points_table
from kdcache.study import Study

Scope: TypeAlias = Literal["student", "init"]
Cells: TypeAlias = Mapping[tuple[str, str, str], Points]
INITS = ("pretrained", "scratch")


@dataclass(frozen=True)
class Group:
    """A group's finite scores, task -> method -> {seed: points}, for every task the group is declared for."""

    scope: Scope
    name: str
    init: str
    scores: Mapping[str, Mapping[str, Points]]

    def differences(self, method: str, baseline: str) -> dict[str, list[float]]:
        """task -> differences of matched seeds, in points; without tasks that have none."""
        result = {}
        for task, scores in self.scores.items():
            x, y = scores[method], scores[baseline]
            if seeds := sorted(x.keys() & y.keys()):
                result[task] = [x[seed] - y[seed] for seed in seeds]
        return result

    def common(self) -> dict[str, dict[str, list[float]]]:
        """task -> method -> points at the seeds that all methods have; without tasks that have none."""
        result = {}
        for task, scores in self.scores.items():
            seeds = sorted(set.intersection(*(set(points) for points in scores.values())))
            if seeds:
                result[task] = {m: [points[seed] for seed in seeds] for m, points in scores.items()}
        return result

    def frame(self) -> pd.DataFrame:
        """Every score as a row: task, seed, regularizer, points."""
        rows = [
            (task, seed, method, value)
            for task, scores in self.scores.items()
            for method, points in scores.items()
            for seed, value in points.items()
        ]
        return pd.DataFrame(rows, columns=["task", "seed", "regularizer", "points"])


def groups(trials: pd.DataFrame, study: Study) -> Iterator[Group]:
    """Every student as a group; then every init with two or more students (with one, it would be the same group)."""
    cells = points_table(trials, study)
    for name, student in study.students.items():
        yield Group("student", name, student.init, _scores(cells, study, [name]))
    for init in INITS:
        members = [name for name, student in study.students.items() if student.init == init]
        if len(members) > 1:
            yield Group("init", init, init, _scores(cells, study, members))


def _scores(cells: Cells, study: Study, students: list[str]) -> dict[str, dict[str, Points]]:
    result = {}
    for task in study.tasks:
        able = [name for name in students if study.applies(study.students[name], task)]
        if able:
            result[task] = {m: _mean([cells[task, s, m] for s in able]) for m in study.methods()}
    return result


def _mean(members: list[Points]) -> Points:
    """Each seed's mean over students, if all of them have a score; else the mean would depend on which have one."""
    finite = [{seed: value for seed, value in points.items() if np.isfinite(value)} for points in members]
    seeds = sorted(set.intersection(*(set(points) for points in finite)))
    return {seed: float(np.mean([points[seed] for points in finite])) for seed in seeds}
