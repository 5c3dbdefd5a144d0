"""Is the teacher needed? Distillation from a teacher against the regularizers that need none.

"KD beats plain fine-tuning and label smoothing does not" is no evidence that KD beats label smoothing. So the two are
compared directly, seed by seed, on each task and student, and once over all tasks and students:

    advantage = KD - teacher-free regularizer   in the metric's unit.

A method is teacher-free if it is not the baseline and its soft labels come from no teacher: label smoothing, TF-reg, a
loss of your own, and also Self-KD, whose teacher is the student itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kdcache.results.schema import TeacherNeededRow
from kdcache.results.writing import tabulate
from kdcache.statistics.contests import ALL, Contest, Pair, judge, names_of
from kdcache.statistics.evidence import Points
from kdcache.statistics.settling import Cells
from kdcache.statistics.verdicts import points_table
from kdcache.study import Study


def compare_with_teacher_free(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """KD against each teacher-free regularizer, and pooled.

    Rows with scope `cell`: one per task, student, regularizer (soft labels: teacher) and teacher-free `against`; all of
    them are corrected together. Rows with scope `pooled`: KD against the mean of the teacher-free regularizers,
    averaged within each seed over all tasks and students. Those with init `all` are one claim, corrected only if there
    are several KDs. If the study has both inits, there are also pooled rows for each init, corrected together. The unit
    is the seed, so a pooled row is about these tasks and students.

    The numbers are those of `kdcache.statistics.compare`, with the teacher-free regularizer in the baseline's place; a
    pooled margin is the smallest margin of its tasks. The table is empty without a KD or a teacher-free regularizer.

    With looks, every row is tested at each look for which all its trials are there, as in `interactions.compare_inits`.
    """
    rows = judge(points_table(trials, study), study, lambda cells: _contests(cells, study))
    return tabulate(TeacherNeededRow, (TeacherNeededRow(**columns) for columns in rows))


def methods(study: Study) -> tuple[list[str], list[str]]:
    """The names that use a teacher, and those that are teacher-free; the baseline is neither."""
    others = {name: m for name, m in study.methods().items() if name != study.comparison.baseline}
    taught = [name for name, method in others.items() if method.soft_labels == "teacher"]
    return taught, [name for name in others if name not in taught]


def _contests(cells: Cells, study: Study) -> Iterator[Contest]:
    """One by one on every task and student, then pooled over all of them, then pooled over each init."""
    taught, free = methods(study)
    if not free:
        return
    pairs = list(dict.fromkeys((task, student) for task, student, _ in cells))
    for task, student in pairs:
        for kd in taught:
            for other in free:
                names = names_of([(task, student)], kd, study) | {"scope": "cell", "against": other}
                first, second = needed = (task, student, kd), (task, student, other)
                yield Contest(names, cells[first], cells[second], needed, family="cell")
    inits = dict.fromkeys(study.students[student].init for _, student in pairs)
    for init in [ALL, *(inits if len(inits) > 1 else [])]:
        members = [pair for pair in pairs if init in (ALL, study.students[pair[1]].init)]
        for kd in taught:
            names = names_of(members, kd, study) | {"scope": "pooled", "init": init, "against": ALL}
            yield _pool(cells, members, kd, free, names)


def _pool(cells: Cells, pairs: list[Pair], kd: str, free: list[str], names: dict[str, Any]) -> Contest:
    """For each seed, KD's mean over the pairs, and the mean of the teacher-free regularizers.

    A seed counts if every trial has a score; a pair without any such seed is left out.
    """
    seeds = {pair: _shared_seeds([cells[(*pair, name)] for name in (kd, *free)]) for pair in pairs}
    used = [pair for pair in pairs if seeds[pair]]
    shared = sorted(set.intersection(*(seeds[pair] for pair in used))) if used else []
    unused = len(pairs) - len(used)
    return Contest(
        names,
        points={seed: _mean(cells, used, [kd], seed) for seed in shared},
        against={seed: _mean(cells, used, free, seed) for seed in shared},
        needed=tuple((*pair, name) for pair in pairs for name in (kd, *free)),
        family=ALL if names["init"] == ALL else "init",
        note=f"{unused} of {len(pairs)} task x student pairs lack trials and are left out" if unused else "",
    )


def _shared_seeds(of_methods: list[Points]) -> set[int]:
    return set.intersection(*map(set, of_methods))


def _mean(cells: Cells, pairs: list[Pair], names: list[str], seed: int) -> float:
    """The mean over the methods on the pairs, at one seed, in points."""
    return float(np.mean([cells[(*pair, name)][seed] for pair in pairs for name in names]))
