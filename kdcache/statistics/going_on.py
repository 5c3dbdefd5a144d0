"""How far a study with looks has come, and how many seeds each configuration needs next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdcache.statistics.against_teacher_free import compare_with_teacher_free
from kdcache.statistics.claims import interaction, teacher_needed
from kdcache.statistics.interactions import compare_inits, pairs
from kdcache.statistics.replay import TOLD, Name, Outcome, seeds_needed
from kdcache.statistics.settling import replay_study
from kdcache.statistics.verdicts import points_table
from kdcache.study import Study
from kdcache.study.schema import SeedCounts


@dataclass(frozen=True)
class Standing:
    """How far a study has come.

    look: the last look that was judged, from 1, or 0; counts: how many seeds each configuration needs.
    """

    look: int
    outcomes: tuple[Outcome, ...]
    counts: SeedCounts

    @property
    def verdicts(self) -> dict[str, int]:
        """The number of comparisons for each of the verdicts better, worse and equivalent that occurs."""
        counts = Counter(outcome.verdict for outcome in self.outcomes)
        return {word: counts[word] for word in TOLD if counts[word]}

    def stopped(self, by: str) -> int:
        """How many comparisons were stopped by `maximum` or `hopeless`."""
        return sum(outcome.stopped_by == by for outcome in self.outcomes)


def standing(trials: pd.DataFrame, study: Study) -> Standing:
    """Judge the existing trials.

    Raises:
        ComparisonError: see `verdicts.compare`.
    """
    replayed = replay_study(points_table(trials, study), study)
    needed = seeds_needed(replayed.families.values(), study.comparison.baseline)
    if study.comparison.settle == "claims":
        for name, seeds in _for_claims(trials, study):
            needed[name] = max(needed.get(name, 0), seeds)
    look = max((row.look for row in replayed.rows), default=0)
    return Standing(look, tuple(replayed.outcomes.values()), _counts(needed, study))


def _for_claims(trials: pd.DataFrame, study: Study) -> Iterator[tuple[Name, int]]:
    """The number of seeds that each claim needs of every configuration that it is about.

    An open claim needs those of its next look. An answered one needs those of the look that answered it: with fewer it
    would be open again.
    """
    interactions, taught = compare_inits(trials, study), compare_with_teacher_free(trials, study)
    if (interactions["scope"] == "pooled").any():
        students = [(task, student) for task, *pair in pairs(study) for student in pair]
        yield from _for_claim(interaction(interactions, study), students, study)
    if len(taught):
        students = [(task, student) for task, student, _ in study.configurations()]
        yield from _for_claim(teacher_needed(taught, study), students, study)


def _for_claim(
    claim: Mapping[str, Any], students: Iterable[tuple[str, str]], study: Study
) -> Iterator[tuple[Name, int]]:
    look = claim["look"] + 1 if claim["verdict"] == "inconclusive" else claim["look"]
    seeds = study.looks[min(look, len(study.looks)) - 1]
    for task, student in students:
        for method in study.methods():
            yield (task, student, method), seeds


def _counts(needed: dict[Name, int], study: Study) -> SeedCounts:
    """Seeds by task, student and method; a baseline has as many seeds as any configuration compared with it."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    baseline = study.comparison.baseline
    for task, student, method in study.configurations():
        of_student = counts.setdefault(task, {}).setdefault(student, {})
        of_student[method] = needed.get((task, student, method), study.looks[0])
        of_student[baseline] = max(of_student.get(baseline, 0), of_student[method])
    return counts
