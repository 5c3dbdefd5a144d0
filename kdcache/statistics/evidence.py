"""The evidence for one comparison, before any correction: from matched seeds, by Welch's test, or no test at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kdcache.statistics import bca, effects, power, significance

# seed -> score in the metric's unit, turned so that more is better (`Unit.worth`): points, or an nll of 5.1 as -5.1
Points: TypeAlias = dict[int, float]


@dataclass(frozen=True)
class Evidence:
    """The trials' evidence on one comparison before any correction, in the unit of `Points`; `None`: not estimable."""

    seeds: int
    paired: bool
    mean: float | None = None
    sd: float | None = None
    baseline_mean: float | None = None
    baseline_sd: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    t_p: float | None = None
    welch_p: float | None = None
    permutation_p: float | None = None
    permutation_floor: float | None = None
    hedges_g: float | None = None
    tost_p: float | None = None
    sd_difference: float | None = None
    beyond_p: float | None = None
    bca_low: float | None = None
    bca_high: float | None = None
    cliffs_delta: float | None = None

    @property
    def spread(self) -> power.Spread | None:
        """The spread, which decides what more seeds would show; `None` if not estimable."""
        if self.paired:
            return None if self.sd_difference is None else power.Spread(self.sd_difference)
        if self.sd is None or self.baseline_sd is None:
            return None
        return power.Spread.unpaired(self.sd, self.baseline_sd)


Detectable: TypeAlias = Callable[[float], float | None]  # level -> a difference in the metric's unit


def scored(points: Points, name: str, notes: list[str]) -> Points:
    """The trials with a score; failed trials (NaN) are named in the notes."""
    failed = sorted(seed for seed, value in points.items() if math.isnan(value))
    if failed:
        notes.append(f"{name} has no score at seed {_listed(failed)} (left out: read with care)")
    return {seed: value for seed, value in sorted(points.items()) if seed not in failed}


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def evidence_of(
    points: Points, base: Points, margin: float | None, confidence: float, notes: list[str]
) -> tuple[Evidence, Detectable]:
    """Compare by matched seeds if there are two or more, else by Welch's test, else not at all.

    `margin` is for the equivalence tests; None leaves them out. Every departure from the plain case is added to
    `notes`. A seed that only one side has is left out of a matched comparison, since a paired test needs both.
    """
    matched = sorted(points.keys() & base.keys())
    if len(matched) >= 2:
        if len(matched) < max(len(points), len(base)):
            notes.append(f"paired on {len(matched)} matched seeds of {len(points)} against {len(base)}")
        return _paired([points[s] for s in matched], [base[s] for s in matched], margin, confidence, notes)
    if len(points) >= 2 and len(base) >= 2:
        matches = "1 matched seed" if matched else "no matched seeds"
        notes.append(f"{matches}: Welch on {len(points)} against {len(base)}")
        return _unpaired(list(points.values()), list(base.values()), margin, confidence, notes)
    return _untestable(points, base, matched, notes)


def _paired(
    x: list[float], y: list[float], margin: float | None, confidence: float, notes: list[str]
) -> tuple[Evidence, Detectable]:
    d = significance.differences(x, y)
    interval = significance.mean_interval(d, confidence)
    if significance.constant(d):
        notes.append("every seed gives the same difference: no spread, so the exact sign-flip test is used")
    evidence = Evidence(
        seeds=len(x),
        paired=True,
        **_means(x, y),
        difference=interval.mean,
        ci_low=interval.ci_low,
        ci_high=interval.ci_high,
        sd_difference=interval.sd,
        t_p=significance.paired_t(d),
        welch_p=significance.welch_t(x, y),
        permutation_p=significance.sign_flip(d),
        permutation_floor=significance.sign_flip_floor(len(x)),
        hedges_g=effects.hedges_g_av(x, y),
        cliffs_delta=effects.cliffs_delta(x, y),
        **_ends(bca.bca_mean(d, confidence)),
        tost_p=None if margin is None else significance.tost_paired(d, margin),
        beyond_p=None if margin is None else significance.beyond_margin_paired(d, margin),
    )
    sd = interval.sd
    return evidence, lambda at: power.detectable_difference(len(x), sd, at) if sd else None


def _unpaired(
    x: list[float], y: list[float], margin: float | None, confidence: float, notes: list[str]
) -> tuple[Evidence, Detectable]:
    interval = significance.welch_difference(x, y, confidence)
    if interval.ci_low is None:
        notes.append("neither side has any spread, so the exact permutation test is used")
    p = significance.welch_t(x, y)
    evidence = Evidence(
        seeds=len(x),
        paired=False,
        **_means(x, y),
        difference=interval.mean,
        ci_low=interval.ci_low,
        ci_high=interval.ci_high,
        t_p=p,
        welch_p=p,
        permutation_p=significance.label_permutation(x, y),
        permutation_floor=significance.label_permutation_floor(len(x), len(y)),
        hedges_g=effects.hedges_g_s(x, y),
        cliffs_delta=effects.cliffs_delta(x, y),
        **_ends(bca.bca_welch(x, y, confidence)),
        tost_p=None if margin is None else significance.tost_welch(x, y, margin),
        beyond_p=None if margin is None else significance.beyond_margin_welch(x, y, margin),
    )
    return evidence, lambda at: power.detectable_welch(x, y, at)


def _untestable(
    points: Points, base: Points, matched: list[int], notes: list[str]
) -> tuple[Evidence, Detectable]:
    """The means only: with fewer than two seeds on a side there is no test."""
    if not points or not base:
        notes.append("no trials yet" if not points else "the baseline has no trials yet")
    else:
        notes.append(f"{len(points)} seed against {len(base)}: a test needs two or more")
    x = [points[s] for s in matched] or list(points.values())
    y = [base[s] for s in matched] or list(base.values())
    difference = significance.settled(float(np.mean(x) - np.mean(y)), x, y) if x and y else None
    evidence = Evidence(seeds=len(x), paired=bool(matched), difference=difference, **_means(x, y))
    return evidence, lambda at: None


def _ends(interval: bca.Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"bca_low": low, "bca_high": high}


def _means(x: list[float], y: list[float]) -> dict[str, float | None]:
    (mean, sd), (baseline_mean, baseline_sd) = mean_sd(x), mean_sd(y)
    return {"mean": mean, "sd": sd, "baseline_mean": baseline_mean, "baseline_sd": baseline_sd}


def mean_sd(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and sample sd (n - 1); each is `None` if there are too few values."""
    return (
        float(np.mean(values)) if values else None,
        float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )
