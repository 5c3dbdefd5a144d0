"""The looks of a study: its design, what the looks have shown so far, and how many looks its trials allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from kdcache.results.schema import LookRow
from kdcache.statistics.evidence import Points
from kdcache.statistics.families import family_key
from kdcache.statistics.looks import Design
from kdcache.statistics.replay import Comparison, Name, Outcome, Replay, replay
from kdcache.study import Study
from kdcache.study.looks import shares_of

Cells: TypeAlias = Mapping[Name, Points]  # (task, student, regularizer) -> seed -> points


def design_of(study: Study) -> Design:
    """The design that the study declares; without looks, one look with all seeds."""
    comparison = study.comparison
    return Design(
        tuple(study.looks),
        shares_of(comparison.spend, study.looks),
        comparison.alpha,
        comparison.correction,
        comparison.stop_hopeless,
        comparison.boundaries == "exact",
    )


@dataclass(frozen=True)
class StudyReplay:
    """The replay of every family; families are in the order of their first comparison."""

    design: Design
    families: Mapping[tuple[str, ...], Replay]

    @cached_property
    def outcomes(self) -> dict[Name, Outcome]:
        """The outcome of every comparison."""
        return {outcome.name: outcome for family in self.families.values() for outcome in family.outcomes}

    @property
    def rows(self) -> list[LookRow]:
        """The rows of looks.csv: family by family, look by look."""
        return [row for family in self.families.values() for row in family.rows]

    def family_size(self, key: tuple[str, ...]) -> int:
        """How many comparisons are corrected together."""
        return len(self.families[key].outcomes)


def replay_study(points: Cells, study: Study) -> StudyReplay:
    """Judge every family of the study at every look for which its trials are there; see `replay`.

    Raises:
        ComparisonError: see `Design`.
    """
    baseline, members = study.comparison.baseline, dict[tuple[str, ...], list[Comparison]]()
    for task, student, regularizer in study.configurations():
        if regularizer == baseline:
            continue
        metric = study.tasks[task].metrics[0]
        own, base = points[task, student, regularizer], points[task, student, baseline]
        comparison = Comparison(
            task, student, regularizer, metric, study.comparison.margin[metric], own, base
        )
        members.setdefault(family_key(study.comparison.family, task, student), []).append(comparison)
    design = design_of(study)
    return StudyReplay(design, {key: replay(design, family, study.seeds) for key, family in members.items()})


def first_seeds(points: Cells, study: Study, look: int) -> dict[Name, Points]:
    """The points at the seeds of look `look`, from 1."""
    seeds = set(study.seeds[: study.looks[look - 1]])
    return {
        name: {s: value for s, value in of_configuration.items() if s in seeds}
        for name, of_configuration in points.items()
    }


def looks_taken(study: Study, needed: Iterable[Points]) -> int:
    """How many looks can be taken with the trials of these configurations; a single look can always be taken."""
    if len(study.looks) == 1:
        return 1
    common = set.intersection(*(set(points) for points in needed))
    missing = next((place for place, seed in enumerate(study.seeds) if seed not in common), len(study.seeds))
    return sum(look <= missing for look in study.looks)


def stops_at(taken: Sequence[float | None], level: float) -> int:
    """The first look, from 1, at which a hypothesis is rejected at `level`, else the last look; 0 if there is none.

    `level` is the strictest level of the family: a rejection at that level is never taken back at a later look.

    Args:
        taken: q at each look for which the trials are there.
    """
    rejects = (look for look, q in enumerate(taken, 1) if q is not None and q <= level)
    return next(rejects, len(taken))
