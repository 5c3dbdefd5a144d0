"""Judge a family of comparisons look by look: a pure function of the design and the scores.

At each look the open comparisons are judged on the look's seeds, with the same tests as without looks. Their p-values
become q (see looks.py), and q is corrected over the whole family, separately for difference and for equivalence. A
rejection stops the comparison as better, worse or equivalent. A comparison that more seeds would hardly decide is given
up. The others go on; the next look is judged once all of them have its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from scipy import special

from kdcache.errors import ComparisonError
from kdcache.results.schema import LookRow
from kdcache.statistics import power, significance
from kdcache.statistics.boundaries import Sides
from kdcache.statistics.evidence import Evidence, Points, mean_sd
from kdcache.statistics.families import correct_by_family
from kdcache.statistics.judging import to_settle, verdict
from kdcache.statistics.looks import Design

Name: TypeAlias = tuple[str, str, str]  # task, student, regularizer
StoppedBy: TypeAlias = Literal["difference", "equivalence", "maximum", "hopeless", ""]

AT_MAXIMUM = "undecided at the maximum"
GOES_ON = "goes on"
TOLD = ("better", "worse", "equivalent")


@dataclass(frozen=True)
class Comparison:
    """A configuration and its baseline: points by seed, NaN for a failed trial, no entry for a trial not run yet.

    margin: in the metric's unit.
    """

    task: str
    student: str
    regularizer: str
    metric: str
    margin: float
    points: Points
    baseline: Points

    @property
    def name(self) -> Name:
        return self.task, self.student, self.regularizer


@dataclass(frozen=True)
class Outcome:
    """Where one comparison stands.

    verdict: better, worse, equivalent, `undecided at the maximum`, `undecided: would need about N seeds` (given up),
    `not settled yet (look k of L)`, or `inconclusive` if there is only one look; look: the look at which it stopped or
    for which it waits; seeds: that look's number of seeds; stopped_by: empty while it goes on; needs: the N above;
    negligible: significant, but within the margin; gain: the difference, positive if it is better; last: the last look
    that was judged.
    """

    name: Name
    verdict: str
    look: int
    seeds: int
    stopped_by: StoppedBy
    negligible: bool = False
    needs: int | None = None
    gain: float | None = None
    last: LookRow | None = None


@dataclass(frozen=True)
class Replay:
    """A family's rows of looks.csv, look by look, and each comparison's outcome, in the family's order."""

    rows: tuple[LookRow, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def goes_on(self) -> tuple[Outcome, ...]:
        """The outcomes of comparisons that wait for more trials."""
        return tuple(outcome for outcome in self.outcomes if not outcome.stopped_by)


def replay(design: Design, family: Sequence[Comparison], seeds: Sequence[int]) -> Replay:
    """Judge the comparisons of one family at every look for which their trials are there.

    Scores after the look at which a comparison stops do not matter. A design with one look judges the existing trials,
    as `verdicts.compare` does. With several looks, a look waits until every open comparison has all its seeds.

    Args:
        seeds: in the declared order, at least as many as the last look has; look k uses the first looks[k - 1].

    Raises:
        ComparisonError: there are fewer seeds than the last look has, or a seed or a comparison is listed twice.
    """
    _check(design, family, seeds)
    rows: list[LookRow] = []
    outcomes: dict[Name, Outcome] = {}
    for look, n in enumerate(design.looks, 1):
        going_on = [comparison for comparison in family if comparison.name not in outcomes]
        if not design.fixed and not _all_there(going_on, seeds[:n]):
            waits = f"not settled yet (look {look} of {len(design.looks)})"
            last = {row.name: row for row in rows}
            for name in (comparison.name for comparison in going_on):
                outcomes[name] = Outcome(name, waits, look, n, "", last=last.get(name))
            break
        stopped = [outcomes[c.name].last for c in family if c.name in outcomes]
        judged = _judge(design, look, going_on, [row for row in stopped if row is not None], seeds[:n])
        rows += [row for row, _ in judged]
        outcomes |= {outcome.name: outcome for _, outcome in judged if outcome.stopped_by}
    return Replay(tuple(rows), tuple(outcomes[comparison.name] for comparison in family))


def _check(design: Design, family: Sequence[Comparison], seeds: Sequence[int]) -> None:
    if len(set(seeds)) != len(seeds) or (len(seeds) < design.looks[-1] and not design.fixed):
        raise ComparisonError(f"the last look needs {design.looks[-1]} different seeds, found {list(seeds)}")
    names = [comparison.name for comparison in family]
    if len(set(names)) != len(names):
        raise ComparisonError(f"a family has each comparison once, found {names}")


def _all_there(comparisons: Iterable[Comparison], seeds: Sequence[int]) -> bool:
    return all(seed in c.points and seed in c.baseline for c in comparisons for seed in seeds)


def seeds_needed(replays: Iterable[Replay], baseline: str) -> dict[Name, int]:
    """How many seeds each configuration needs: its look's number; a baseline needs the most of its comparisons."""
    needed: dict[Name, int] = {}
    for outcome in (outcome for replayed in replays for outcome in replayed.outcomes):
        task, student, _ = outcome.name
        needed[outcome.name] = outcome.seeds
        needed[task, student, baseline] = max(needed.get((task, student, baseline), 0), outcome.seeds)
    return needed


@dataclass(frozen=True)
class _Judging:
    """One comparison at one look, before the family is corrected."""

    comparison: Comparison
    evidence: Evidence
    t_q: float | None
    tost_q: float | None
    chance: float | None


def _judge(
    design: Design, look: int, going_on: list[Comparison], stopped: list[LookRow], seeds: Sequence[int]
) -> list[tuple[LookRow, Outcome]]:
    """Judge the open comparisons at one look, corrected together with those that stopped earlier, at their last q."""
    size = len(going_on) + len(stopped)
    judging = [_judging(design, look, comparison, seeds, size) for comparison in going_on]
    t_q = [judged.t_q for judged in judging] + [row.t_q for row in stopped]
    tost_q = [judged.tost_q for judged in judging] + [row.tost_q for row in stopped]
    t_corrected = correct_by_family(t_q, [0] * size, design.correction)
    tost_corrected = correct_by_family(tost_q, [0] * size, design.correction)
    return [
        _row_and_outcome(design, look, judged, corrected, size)
        for judged, corrected in zip(judging, zip(t_corrected, tost_corrected, strict=True), strict=False)
    ]


def _judging(design: Design, look: int, comparison: Comparison, seeds: Sequence[int], size: int) -> _Judging:
    confidence = 1 - design.nominal(look, design.alpha, 2)
    points, baseline = (_scored(points, seeds) for points in (comparison.points, comparison.baseline))
    evidence = verdict_evidence(points, baseline, comparison.margin, confidence)
    as_designed = bool(evidence.paired and evidence.seeds == len(seeds) and evidence.sd_difference)

    def sequential(p: float | None, sides: Sides) -> float | None:
        return None if p is None else float(design.sequential(look, p, sides, as_designed))

    t_q, tost_q = sequential(evidence.t_p, 2), sequential(evidence.tost_p, 1)
    chance = _chance(design, look, evidence, comparison.margin, size)
    return _Judging(comparison, evidence, t_q, tost_q, chance)


def _scored(points: Points, seeds: Sequence[int]) -> Points:
    return {seed: points[seed] for seed in seeds if seed in points and not math.isnan(points[seed])}


def verdict_evidence(points: Points, baseline: Points, margin: float, confidence: float) -> Evidence:
    """The part of `evidence_of` that a verdict needs: no bootstrap, no permutations, no effect sizes."""
    matched = sorted(points.keys() & baseline.keys())
    if len(matched) >= 2:
        d = significance.differences([points[s] for s in matched], [baseline[s] for s in matched])
        interval, p = significance.mean_interval(d, confidence), significance.paired_t(d)
        tost_p = significance.tost_paired(d, margin)
        return Evidence(
            len(d), True, difference=interval.mean, ci_low=interval.ci_low, ci_high=interval.ci_high,
            t_p=p, tost_p=tost_p, sd_difference=interval.sd,
        )  # fmt: skip
    x, y = list(points.values()), list(baseline.values())
    if len(x) < 2 or len(y) < 2:
        return Evidence(len(matched), bool(matched))
    interval, p = significance.welch_difference(x, y, confidence), significance.welch_t(x, y)
    return Evidence(
        len(x), False, difference=interval.mean, ci_low=interval.ci_low, ci_high=interval.ci_high,
        t_p=p, tost_p=significance.tost_welch(x, y, margin), sd=mean_sd(x)[1], baseline_sd=mean_sd(y)[1],
    )  # fmt: skip


def _chance(design: Design, look: int, evidence: Evidence, margin: float, size: int) -> float | None:
    """The predictive probability that the last look decides, whatever the rest of the family shows.

    Given n seeds with mean d and spread s, the mean of N seeds is assumed normal around d with variance s^2 (1/n - 1/N)
    (a flat prior, s as if known). A difference is found beyond h = t s / sqrt(N), equivalence within margin - t s /
    sqrt(N), with the last look's quantiles t. `None` at the last look, and without a spread.
    """
    n, last, spread = design.looks[look - 1], design.looks[-1], evidence.spread
    if n == last or evidence.difference is None or spread is None or spread.sd == 0:
        return None
    at, error = design.strictest(size), spread.sd / math.sqrt(last)
    _, t_difference = spread.critical(last, design.nominal(len(design.looks), at, 2) / 2)
    _, t_equivalence = spread.critical(last, design.nominal(len(design.looks), at, 1))
    beyond, within = t_difference * error, margin - t_equivalence * error
    moves = spread.sd * math.sqrt(1 / n - 1 / last)
    z = [(sign * evidence.difference - beyond) / moves for sign in (1, -1)]
    chance = special.ndtr(z[0]) + special.ndtr(z[1])
    if within > 0:
        chance += special.ndtr((within - evidence.difference) / moves)
        chance -= special.ndtr((-within - evidence.difference) / moves)
    return min(1.0, float(chance))  # with a large margin, difference and equivalence can overlap


def _row_and_outcome(
    design: Design, look: int, judged: _Judging, corrected: tuple[float | None, float | None], size: int
) -> tuple[LookRow, Outcome]:
    """A comparison's row of looks.csv, and its outcome."""
    comparison, evidence = judged.comparison, judged.evidence
    outcome = _outcome(design, look, judged, corrected, size)
    t_q_corrected, tost_q_corrected = corrected
    row = LookRow(
        task=comparison.task,
        student=comparison.student,
        regularizer=comparison.regularizer,
        look=look,
        seeds=evidence.seeds,
        difference=evidence.difference,
        sd=_sd(evidence),
        t_p=evidence.t_p,
        tost_p=evidence.tost_p,
        share=design.shares[look - 1],
        t_q=judged.t_q,
        tost_q=judged.tost_q,
        t_q_corrected=t_q_corrected,
        tost_q_corrected=tost_q_corrected,
        chance=judged.chance,
        outcome=outcome.verdict,
        ci_low=evidence.ci_low,
        ci_high=evidence.ci_high,
    )
    return row, replace(outcome, gain=evidence.difference, last=row)


def _sd(evidence: Evidence) -> float | None:
    """The sd of the matched differences; without matching, the sd of one x - y, sqrt(sd^2 + baseline_sd^2)."""
    return evidence.spread.sd if evidence.spread else None


def _outcome(
    design: Design, look: int, judged: _Judging, corrected: tuple[float | None, float | None], size: int
) -> Outcome:
    comparison, evidence, at = judged.comparison, judged.evidence, design.looks[look - 1]
    word, negligible = verdict(evidence.difference, *corrected, design.alpha)
    if word in TOLD:
        by: StoppedBy = "equivalence" if word == "equivalent" else "difference"
        return Outcome(comparison.name, word, look, at, by, negligible)
    if look == len(design.looks):
        return Outcome(comparison.name, word if design.fixed else AT_MAXIMUM, look, at, "maximum")
    if look > 1 and judged.chance is not None and judged.chance < design.stop_hopeless:
        needs = to_settle(evidence, comparison.margin, design.strictest(size))["seeds_to_settle"]
        about = f"about {needs}" if needs else f"more than {power.MOST_SEEDS}"
        return Outcome(
            comparison.name, f"undecided: would need {about} seeds", look, at, "hopeless", needs=needs
        )
    return Outcome(comparison.name, GOES_ON, look, at, "")
