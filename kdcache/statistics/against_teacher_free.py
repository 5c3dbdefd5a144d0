"""Is the teacher needed? Distillation from a teacher against the regularizers that need none.

"KD beats plain fine-tuning and label smoothing does not" is no evidence that KD beats label smoothing. So the two are
compared directly, seed by seed, on each task and student, and once over all tasks and students:

    advantage = KD - teacher-free regularizer   in the metric's unit.

A method is teacher-free if it is not the baseline and its soft labels come from no teacher: label smoothing, TF-reg, a
loss of your own, and also Self-KD, whose teacher is the student itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from kdcache.results.schema import TeacherNeededRow
from kdcache.results.writing import tabulate
from kdcache.statistics.evidence import Detectable, Evidence, Points, evidence_of
from kdcache.statistics.families import correct_by_family, level
from kdcache.statistics.judging import verdict
from kdcache.statistics.replay import Name
from kdcache.statistics.settling import Cells, design_of, first_seeds, looks_taken, stops_at
from kdcache.statistics.verdicts import as_shown, points_table
from kdcache.study import Study
from kdcache.study.metrics import unit_of

ALL = "all"
Pair = tuple[str, str]  # task, student


@dataclass(frozen=True)
class _Contest:
    """The scores of one comparison, seed by seed: a KD against one teacher-free regularizer, or against their mean."""

    names: dict[str, Any]  # scope to margin, the columns of TeacherNeededRow that say what is compared
    taught: Points
    free: Points
    needed: tuple[Name, ...]  # the configurations whose trials the comparison uses
    note: str = ""

    @property
    def family(self) -> str:
        """The family: all cells are one, rows pooled over everything are another, rows pooled by init a third."""
        return "cell" if self.names["scope"] == "cell" else ALL if self.names["init"] == ALL else "init"


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
    points, design = points_table(trials, study), design_of(study)
    at_looks = [
        [
            _evidence(contest, study, look)
            for contest in _contests(_finite(first_seeds(points, study, look)), study)
        ]
        for look in range(1, len(design.looks) + 1)
    ]
    families = [judged_contest.contest.family for judged_contest in at_looks[0]]
    sizes, judged = Counter(families), list[_Judged]()
    for place, (first, family) in enumerate(zip(at_looks[0], families, strict=True)):
        taken = looks_taken(study, (points[name] for name in first.contest.needed))
        smallest = [rows[place].smallest_q for rows in at_looks]
        look = stops_at(smallest[:taken], design.strictest(sizes[family]))
        judged.append(at_looks[look - 1][place] if look else first.not_yet())
    method = study.comparison.correction
    t_corrected = correct_by_family([row.t_q for row in judged], families, method)
    tost_corrected = correct_by_family([row.tost_q for row in judged], families, method)
    rows = (
        _row(row, t_p, tost_p, sizes[row.contest.family], study)
        for row, t_p, tost_p in zip(judged, t_corrected, tost_corrected, strict=True)
    )
    return tabulate(TeacherNeededRow, rows)


@dataclass(frozen=True)
class _Judged:
    """A comparison at one look, before any correction; a q is a p-value divided by the look's share of alpha."""

    contest: _Contest
    evidence: Evidence
    detectable: Detectable
    note: str
    look: int
    share: float

    @property
    def t_q(self) -> float | None:
        return self._q(self.evidence.t_p)

    @property
    def tost_q(self) -> float | None:
        return self._q(self.evidence.tost_p)

    @property
    def smallest_q(self) -> float | None:
        return min((q for q in (self.t_q, self.tost_q) if q is not None), default=None)

    def _q(self, p: float | None) -> float | None:
        return None if p is None else min(1.0, p / self.share)

    def not_yet(self) -> _Judged:
        """The same row, not tested, since even the first look lacks trials."""
        return replace(self, evidence=replace(self.evidence, t_p=None, tost_p=None), look=0)


def _evidence(contest: _Contest, study: Study, look: int) -> _Judged:
    notes, share = [contest.note] if contest.note else [], design_of(study).shares[look - 1]
    confidence, margin = 1 - study.comparison.alpha * share, contest.names["margin"]
    evidence, detectable = evidence_of(contest.taught, contest.free, margin, confidence, notes)
    return _Judged(contest, evidence, detectable, "; ".join(notes), look, share)


def _row(
    judged: _Judged, t_p: float | None, tost_p: float | None, family_size: int, study: Study
) -> TeacherNeededRow:
    """A row of the table.

    Args:
        t_p, tost_p: corrected p-values.
        family_size: the number of comparisons that were corrected together.
    """
    alpha, correction, evidence = study.comparison.alpha, study.comparison.correction, judged.evidence
    shown = as_shown(evidence, unit_of(str(judged.contest.names["metric"])))
    word, negligible = verdict(evidence.difference, t_p, tost_p, alpha)
    return TeacherNeededRow(
        **judged.contest.names,
        seeds=evidence.seeds,
        paired=evidence.paired,
        mean=shown["mean"],
        against_mean=shown["baseline_mean"],
        difference=evidence.difference,
        ci_low=evidence.ci_low,
        ci_high=evidence.ci_high,
        sd_difference=evidence.sd_difference,
        t_p=evidence.t_p,
        t_p_corrected=t_p,
        tost_p=evidence.tost_p,
        tost_p_corrected=tost_p,
        family_size=family_size,
        verdict=word,
        negligible=negligible,
        detectable=judged.detectable(level(alpha * judged.share, family_size, correction)),
        look=judged.look,
        note=judged.note,
    )


def methods(study: Study) -> tuple[list[str], list[str]]:
    """The names that use a teacher, and those that are teacher-free; the baseline is neither."""
    others = {name: m for name, m in study.methods().items() if name != study.comparison.baseline}
    taught = [name for name, method in others.items() if method.soft_labels == "teacher"]
    return taught, [name for name in others if name not in taught]


def _finite(cells: Cells) -> dict[Name, Points]:
    return {
        cell: {seed: value for seed, value in points.items() if np.isfinite(value)}
        for cell, points in cells.items()
    }


def _contests(cells: Cells, study: Study) -> Iterator[_Contest]:
    """One by one on every task and student, then pooled over all of them, then pooled over each init."""
    taught, free = methods(study)
    if not free:
        return
    pairs = list(dict.fromkeys((task, student) for task, student, _ in cells))
    for task, student in pairs:
        for kd in taught:
            for other in free:
                names = _names([(task, student)], kd, study) | {"scope": "cell", "against": other}
                first, second = needed = (task, student, kd), (task, student, other)
                yield _Contest(names, cells[first], cells[second], needed)
    inits = dict.fromkeys(study.students[student].init for _, student in pairs)
    for init in [ALL, *(inits if len(inits) > 1 else [])]:
        members = [pair for pair in pairs if init in (ALL, study.students[pair[1]].init)]
        for kd in taught:
            names = _names(members, kd, study) | {"scope": "pooled", "init": init, "against": ALL}
            yield _pool(cells, members, kd, free, names)


def _names(pairs: list[tuple[str, str]], kd: str, study: Study) -> dict[str, Any]:
    """The columns that name a comparison of KD on (task, student) pairs; `all` if the pairs differ."""
    students = [study.students[student] for _, student in pairs]
    metrics = sorted({study.tasks[task].metrics[0] for task, _ in pairs})
    teachers = {study.method(kd).teacher_name(student) or "" for student in students}
    return {
        "regularizer": kd,
        "task": _only_name({task for task, _ in pairs}),
        "student": _only_name({student for _, student in pairs}),
        "init": _only_name({s.init for s in students}),
        "teacher": _only_name(teachers),
        "metric": "/".join(metrics),
        "margin": min(study.comparison.margin[metric] for metric in metrics),
    }


def _only_name(names: set[str]) -> str:
    return min(names) if len(names) == 1 else ALL


def _pool(cells: Cells, pairs: list[Pair], kd: str, free: list[str], names: dict[str, Any]) -> _Contest:
    """For each seed, KD's mean over the pairs, and the mean of the teacher-free regularizers.

    A seed counts if every trial has a score; a pair without any such seed is left out.
    """
    seeds = {pair: _shared_seeds([cells[(*pair, name)] for name in (kd, *free)]) for pair in pairs}
    used = [pair for pair in pairs if seeds[pair]]
    shared = sorted(set.intersection(*(seeds[pair] for pair in used))) if used else []
    unused = len(pairs) - len(used)
    return _Contest(
        names,
        taught={seed: _mean(cells, used, [kd], seed) for seed in shared},
        free={seed: _mean(cells, used, free, seed) for seed in shared},
        needed=tuple((*pair, name) for pair in pairs for name in (kd, *free)),
        note=f"{unused} of {len(pairs)} task x student pairs lack trials and are left out" if unused else "",
    )


def _shared_seeds(of_methods: list[Points]) -> set[int]:
    return set.intersection(*map(set, of_methods))


def _mean(cells: Cells, pairs: list[Pair], names: list[str], seed: int) -> float:
    """The mean over the methods on the pairs, at one seed, in points."""
    return float(np.mean([cells[(*pair, name)][seed] for pair in pairs for name in names]))
