"""How far a study with looks has come, and how many seeds each configuration needs next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from kdcache.statistics.against_teacher_free import compare_with_teacher_free
from kdcache.statistics.claims import interaction, teacher_needed
from kdcache.statistics.interactions import compare_inits, pairs
from kdcache.statistics.replay import TOLD, Name, Outcome, seeds_needed
from kdcache.statistics.settling import looks_taken, replay_study
from kdcache.statistics.verdicts import points_table
from kdcache.study import Study
from kdcache.study.schema import SeedCounts

Numbers: TypeAlias = Mapping[str, Any]  # a claim, as in summary.json


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
    """The number of seeds that each claim needs of every configuration that it is about."""
    everything = list(study.configurations())
    of_pairs = {(task, student) for task, *pair in pairs(study) for student in pair}

    def interacts(first: pd.DataFrame) -> Numbers:
        return interaction(compare_inits(first, study), study)

    def needs_teacher(first: pd.DataFrame) -> Numbers:
        return teacher_needed(compare_with_teacher_free(first, study), study)

    if (compare_inits(trials, study)["scope"] == "pooled").any():
        names = [name for name in everything if name[:2] in of_pairs]
        yield from dict.fromkeys(names, _seeds_for(interacts, names, trials, study)).items()
    if len(compare_with_teacher_free(trials, study)):
        yield from dict.fromkeys(everything, _seeds_for(needs_teacher, everything, trials, study)).items()


def _seeds_for(
    judge: Callable[[pd.DataFrame], Numbers], names: Sequence[Name], trials: pd.DataFrame, study: Study
) -> int:
    """The seeds of the first look that answers a claim, of the first one that lacks trials, or of the last.

    It is judged look by look from the trials of that look alone. So other trials change nothing, and an answered claim
    keeps the seeds that answered it.
    """
    points = points_table(trials, study)
    taken = looks_taken(study, [points[name] for name in names])
    for seeds in study.looks[:taken]:
        if judge(trials[trials["seed"].isin(study.seeds[:seeds])])["verdict"] != "inconclusive":
            return seeds
    return study.looks[min(taken, len(study.looks) - 1)]


def _counts(needed: dict[Name, int], study: Study) -> SeedCounts:
    """Seeds by task, student and method; a baseline has as many seeds as any configuration compared with it."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    baseline = study.comparison.baseline
    for task, student, method in study.configurations():
        of_student = counts.setdefault(task, {}).setdefault(student, {})
        of_student[method] = needed.get((task, student, method), study.looks[0])
        of_student[baseline] = max(of_student.get(baseline, 0), of_student[method])
    return counts
