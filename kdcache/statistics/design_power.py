"""What a design would cost and decide, before a trial is run: simulated from assumed spreads and effects.

Scores are drawn as a study has them: the regularizers of a family share their baseline, so that any two differences
are correlated by a half. Then the looks are replayed (replay_many.py).
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
    """A family as it might be, in points.

    effects: the true difference of each comparison, positive where it is better; sds: of the matched differences,
    one for all of them or each its own; baselines: the number of the baseline that each comparison has; empty: all have
    one baseline.
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
        """The baseline of each comparison, numbered from 0 without a gap."""
        return np.unique(self.baselines or (0,) * len(self.effects), return_inverse=True)[1]

    def draw(self, rng: Generator, repetitions: int, seeds: int) -> Array:
        """Differences [repetitions, comparisons, seeds]; half of a difference's variance is the baseline's."""
        of = self.baseline_of
        baseline = rng.standard_normal((repetitions, of.max() + 1, seeds))[:, of]
        own = rng.standard_normal((repetitions, len(self.effects), seeds))
        sds, effects = np.array(self.sds)[:, None], np.array(self.effects)[:, None]
        return np.asarray(effects + sds * (own - baseline) / np.sqrt(2.0))

    def trials(self, many: Many) -> NDArray[np.intp]:
        """Of every repetition; a baseline has as many seeds as the most of its comparisons."""
        of = self.baseline_of
        baselines = sum(many.seeds[:, of == number].max(axis=1) for number in range(of.max() + 1))
        return np.asarray(many.seeds.sum(axis=1) + baselines)


@dataclass(frozen=True)
class Odds:
    """Of one comparison: its assumed effect and sd, the chance of each verdict, and its mean number of seeds."""

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
    """Trials of the whole study, baselines included, and what they decide.

    least, most: if all stop at the first look, or none before the last; likely: the median of the repetitions, low
    and high their 10% and 90% quantiles; odds: of every comparison, family by family.
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
        """How many comparisons are decided on average."""
        return sum(odds.decided for odds in self.odds)


def forecast(
    design: Design, families: Sequence[Assumed], *, repetitions: int = REPETITIONS, seed: int = 0
) -> Forecast:
    """Simulate a study of these families; equal arguments give equal answers."""
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
