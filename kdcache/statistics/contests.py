"""Contests between two configurations, or two means of several: judged seed by seed at every look, corrected together.

A contest is tested at each look for which all its trials are there, and stops at the first one that decides it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcache.statistics.evidence import Detectable, Evidence, Points, evidence_of
from kdcache.statistics.families import correct_by_family, level
from kdcache.statistics.judging import verdict
from kdcache.statistics.replay import Name
from kdcache.statistics.settling import Cells, design_of, first_seeds, looks_taken, stops_at
from kdcache.statistics.verdicts import as_shown
from kdcache.study import Study
from kdcache.study.metrics import unit_of

ALL = "all"
Pair = tuple[str, str]  # task, student


@dataclass(frozen=True)
class Contest:
    """Two sides' scores, seed by seed.

    names: the columns of a row of `TeacherNeededRow` that say what is compared; `metric` and `margin` are among them.
    needed: the configurations whose trials the contest uses.
    family: contests of the same family are corrected together.
    """

    names: dict[str, Any]
    points: Points
    against: Points
    needed: tuple[Name, ...]
    family: str
    note: str = ""


@dataclass(frozen=True)
class Judgement:
    """A contest at one look; a q is a p-value divided by the look's share of alpha."""

    contest: Contest
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

    def not_yet(self) -> Judgement:
        """The same judgement with nothing tested, since not even the first look has all its trials."""
        return replace(self, evidence=replace(self.evidence, t_p=None, tost_p=None), look=0)


def judge(
    points: Cells, study: Study, contests: Callable[[Cells], Iterable[Contest]]
) -> list[dict[str, Any]]:
    """Judge contests; of each the columns of `TeacherNeededRow`.

    Args:
        points: the scores of every configuration, seed by seed; more is better.
        contests: makes the contests from the finite scores up to a look; always the same ones in the same order.
    """
    design = design_of(study)
    at_looks = [
        [_at_look(contest, study, look) for contest in contests(_finite(first_seeds(points, study, look)))]
        for look in range(1, len(design.looks) + 1)
    ]
    families = [judgement.contest.family for judgement in at_looks[0]]
    sizes, judged = Counter(families), list[Judgement]()
    for place, (first, family) in enumerate(zip(at_looks[0], families, strict=True)):
        taken = looks_taken(study, (points[name] for name in first.contest.needed))
        smallest = [judgements[place].smallest_q for judgements in at_looks]
        look = stops_at(smallest[:taken], design.strictest(sizes[family]))
        judged.append(at_looks[look - 1][place] if look else first.not_yet())
    method = study.comparison.correction
    t_corrected = correct_by_family([judgement.t_q for judgement in judged], families, method)
    tost_corrected = correct_by_family([judgement.tost_q for judgement in judged], families, method)
    return [
        _columns(judgement, t_p, tost_p, sizes[judgement.contest.family], study)
        for judgement, t_p, tost_p in zip(judged, t_corrected, tost_corrected, strict=True)
    ]


def names_of(pairs: Sequence[Pair], kd: str, study: Study) -> dict[str, Any]:
    """The columns that name KD on some (task, student) pairs; `all` where the pairs differ."""
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


def _at_look(contest: Contest, study: Study, look: int) -> Judgement:
    notes, share = [contest.note] if contest.note else [], design_of(study).shares[look - 1]
    confidence, margin = 1 - study.comparison.alpha * share, contest.names["margin"]
    evidence, detectable = evidence_of(contest.points, contest.against, margin, confidence, notes)
    return Judgement(contest, evidence, detectable, "; ".join(notes), look, share)


def _columns(
    judgement: Judgement, t_p: float | None, tost_p: float | None, family_size: int, study: Study
) -> dict[str, Any]:
    """A row's columns.

    Args:
        t_p, tost_p: corrected p-values.
        family_size: the number of contests that were corrected together.
    """
    alpha, correction, evidence = study.comparison.alpha, study.comparison.correction, judgement.evidence
    shown = as_shown(evidence, unit_of(str(judgement.contest.names["metric"])))
    word, negligible = verdict(evidence.difference, t_p, tost_p, alpha)
    return {
        **judgement.contest.names,
        "seeds": evidence.seeds,
        "paired": evidence.paired,
        "mean": shown["mean"],
        "against_mean": shown["baseline_mean"],
        "difference": evidence.difference,
        "ci_low": evidence.ci_low,
        "ci_high": evidence.ci_high,
        "sd_difference": evidence.sd_difference,
        "t_p": evidence.t_p,
        "t_p_corrected": t_p,
        "tost_p": evidence.tost_p,
        "tost_p_corrected": tost_p,
        "family_size": family_size,
        "verdict": word,
        "negligible": negligible,
        "detectable": judgement.detectable(level(alpha * judgement.share, family_size, correction)),
        "look": judgement.look,
        "note": judgement.note,
    }


def _finite(cells: Cells) -> Cells:
    return {
        cell: {seed: value for seed, value in points.items() if np.isfinite(value)}
        for cell, points in cells.items()
    }
