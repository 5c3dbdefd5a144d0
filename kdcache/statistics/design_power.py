"""Forecast what a design would cost and decide, before any trial is run, from assumed spreads and effects.

Scores are simulated as in a study: the regularizers of a family share their baseline, so any two differences have a
correlation of one half. Then the looks are replayed (replay_many.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kdcache.errors import ComparisonError
from kdcache.statistics.looks import Design
from kdcache.statistics.replay_many import BETTER, EQUIVALENT, WORSE, Many, replay_many

Array: TypeAlias = NDArray[np.float64]

REPETITIONS = 2000


@dataclass(frozen=True)
class Assumed:
    """An assumed family, in points.

    effects: the true difference of each comparison, positive if it is better; sds: the sd of the matched differences,
    one for all comparisons or one for each; baselines: the number of each comparison's baseline; empty if all have the
    same one.
    """

    effects: tuple[float, ...]
    sds: tuple[float, ...]
    margin: float = 1.0
    baselines: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.effects or len(self.sds) not in (1, len(self.effects)):
            raise ComparisonError(f"{len(self.effects)} effects need 1 sd or as many, found {list(self.sds)}")
        if min(self.sds) <= 0 or self.margin <= 0:
            raise ComparisonError(
                f"sds and margin must be above 0, found {list(self.sds)} and {self.margin:g}"
            )

        if self.baselines and len(self.baselines) != len(self.effects):
            raise ComparisonError(
                f"{len(self.effects)} effects need as many baselines, found {list(self.baselines)}"
            )

    @property
    def baseline_of(self) -> NDArray[np.intp]:
        """The baseline of each comparison; baselines are numbered from 0 without gaps."""
        return np.unique(self.baselines or (0,) * len(self.effects), return_inverse=True)[1]

    def draw(self, rng: Generator, repetitions: int, seeds: int) -> Array:
        """Differences [repetitions, comparisons, seeds]; half of each difference's variance comes from the baseline."""
        baseline_of = self.baseline_of
        baseline = rng.standard_normal((repetitions, baseline_of.max() + 1, seeds))[:, baseline_of]
        own = rng.standard_normal((repetitions, len(self.effects), seeds))
        sds, effects = np.array(self.sds)[:, None], np.array(self.effects)[:, None]
        return np.asarray(effects + sds * (own - baseline) / np.sqrt(2.0))

    def trials(self, many: Many) -> NDArray[np.intp]:
        """The trials of every repetition; a baseline has as many seeds as the longest of its comparisons."""
        baseline_of = self.baseline_of
        baselines = sum(
            many.seeds[:, baseline_of == number].max(axis=1) for number in range(baseline_of.max() + 1)
        )
        return np.asarray(many.seeds.sum(axis=1) + baselines)


@dataclass(frozen=True)
class Odds:
    """One comparison's assumed effect and sd, its chance of each verdict, and its mean number of seeds."""

    effect: float
    sd: float
    better: float
    worse: float
    equivalent: float
    seeds: float

    @property
    def decided(self) -> float:
        return self.better + self.worse + self.equivalent


@dataclass(frozen=True)
class Forecast:
    """The number of trials of a whole study, baselines included, and what they decide.

    least: if all comparisons stop at the first look; most: if none stops before the last; likely, low, high: the
    median and the 10% and 90% quantiles over the repetitions; odds: those of every comparison, family by family.
    """

    least: int
    low: int
    likely: int
    high: int
    most: int
    odds: tuple[Odds, ...]

    @property
    def comparisons(self) -> int:
        return len(self.odds)

    @property
    def decided(self) -> float:
        """The mean number of comparisons that are decided."""
        return sum(odds.decided for odds in self.odds)


def forecast(
    design: Design, families: Sequence[Assumed], *, repetitions: int = REPETITIONS, seed: int = 0
) -> Forecast:
    """Simulate a study of these families; equal arguments give equal results."""
    if not families:
        raise ComparisonError("a forecast needs one family or more")
    rng = np.random.default_rng(seed)
    outcomes = [_outcome(design, family, rng, repetitions) for family in families]
    trials = sum(family.trials(many) for family, many in zip(families, outcomes, strict=True))
    low, likely, high = (round(float(value)) for value in np.quantile(trials, (0.1, 0.5, 0.9)))
    configurations = sum(len(family.effects) + int(family.baseline_of.max()) + 1 for family in families)
    return Forecast(
        configurations * design.looks[0], low, likely, high, configurations * design.looks[-1],
        tuple(odds for family, many in zip(families, outcomes, strict=True) for odds in _odds(family, many)),
    )  # fmt: skip


def _outcome(design: Design, family: Assumed, rng: Generator, repetitions: int) -> Many:
    return replay_many(design, family.draw(rng, repetitions, design.looks[-1]), family.margin)


def _odds(family: Assumed, many: Many) -> list[Odds]:
    shares = [(many.verdict == verdict).mean(axis=0) for verdict in (BETTER, WORSE, EQUIVALENT)]
    columns = np.broadcast_arrays(family.effects, family.sds, *shares, many.seeds.mean(axis=0))
    return [Odds(*map(float, values)) for values in zip(*columns, strict=True)]
