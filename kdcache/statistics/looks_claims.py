"""Claims over comparisons that stop at different looks.

A claim uses the q of each comparison at the look where it stopped: these are p-values, so claims are tested as
without looks. A claim of its own, such as an interaction, has its own sequence of looks with its own alpha.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdcache.statistics import significance
from kdcache.statistics.boundaries import Sides
from kdcache.statistics.evidence import Points
from kdcache.statistics.families import correct
from kdcache.statistics.looks import Design
from kdcache.statistics.replay import AT_MAXIMUM, Name, Outcome


def all_equivalent(outcomes: Sequence[Outcome], alpha: float) -> tuple[float, bool]:
    """The p of "every difference is smaller than its margin", and whether that is shown.

    It is the largest q of the equivalence tests, without any correction: if the claim is false, some comparison has
    a true difference of its margin or more, and that one's q is at most alpha with a chance of at most alpha; so is
    the largest. This holds for a fixed design too. A comparison that could not be tested counts as 1.
    """
    p = max((_or_one(outcome.last.tost_q if outcome.last else None) for outcome in outcomes), default=1.0)
    return p, p <= alpha


def some_better(outcomes: Sequence[Outcome], design: Design) -> list[Name]:
    """The comparisons that are better when all of the claim are corrected together, whatever their families.

    The claim "some regularizer helps" is supported when there is one.
    """
    q = [_or_one(outcome.last.t_q if outcome.last else None) for outcome in outcomes]
    return [
        outcome.name
        for outcome, p in zip(outcomes, correct(q, design.correction), strict=True)
        if p <= design.alpha and outcome.gain is not None and outcome.gain > 0
    ]


def _or_one(q: float | None) -> float:
    return 1.0 if q is None else q


def corrected_over_claim(
    design: Design, p_values: Sequence[float | None], looks: Sequence[int], sides: Sides
) -> list[float]:
    """Any other p-values, each of the look (from 1) at which its comparison stopped, as q and corrected together.

    Divided by the look's share, also where the design has exact boundaries: those are for the t-tests only.
    """
    q = [
        1.0 if p is None else float(design.sequential(look, p, sides, exact=False))
        for p, look in zip(p_values, looks, strict=True)
    ]
    return [float(p) for p in correct(q, design.correction)]


@dataclass(frozen=True)
class ClaimOutcome:
    """Where a claim with looks of its own stands.

    verdict: supported, `undecided at the maximum`, or `not settled yet (look k of L)`; look, seeds: at which it was
    supported, or which it waits for; p, q: of the last look that was judged.
    """

    verdict: str
    look: int
    seeds: int
    p: float | None
    q: float | None

    @property
    def settled(self) -> bool:
        return not self.verdict.startswith("not settled yet")


def settle_claim(design: Design, p_values: Sequence[float | None], exact: bool = False) -> ClaimOutcome:
    """One hypothesis with one-sided p-values at the first looks, `None` where its trials are not all there.

    Supported at the first look with q <= alpha; later trials do not take that back. The looks end with the first
    `None`. The hypothesis has all of alpha to itself; exact: the p-values are t-tests on all seeds of their look.
    """
    p = q = None
    for look, n in enumerate(design.looks, 1):
        if look > len(p_values) or (value := p_values[look - 1]) is None:
            return ClaimOutcome(f"not settled yet (look {look} of {len(design.looks)})", look, n, p, q)
        p, q = value, float(design.sequential(look, value, 1, exact))
        if q <= design.alpha:
            return ClaimOutcome("supported", look, n, p, q)
    return ClaimOutcome(AT_MAXIMUM, len(design.looks), design.looks[-1], p, q)


def interaction_p(design: Design, more: Points, less: Points, seeds: Sequence[int]) -> list[float | None]:
    """At each look, the one-sided p of "the gains `more` exceed the gains `less`", seed by seed.

    Args:
        more, less: gain in points by seed, such as from scratch and pretrained; NaN where one of the trials failed,
            no entry where one has not been run. Gains are differences of scores, so their rounding noise is that of
            scores up to 100 points.
    """
    p_values: list[float | None] = []
    for n in design.looks:
        if not all(seed in more and seed in less for seed in seeds[:n]):
            return p_values
        pairs = [(more[s], less[s]) for s in seeds[:n] if math.isfinite(more[s]) and math.isfinite(less[s])]
        p_values.append(_one_sided(pairs))
    return p_values


def _one_sided(pairs: Sequence[tuple[float, float]]) -> float:
    """A look that cannot be tested has p = 1: it has been taken all the same."""
    if len(pairs) < 2:
        return 1.0
    more, less = zip(*pairs, strict=True)
    return significance.paired_t(significance.differences(more, less), 0.0, "greater")


def with_claims(
    needed: Mapping[Name, int], claims: Iterable[tuple[ClaimOutcome, Iterable[Name]]]
) -> dict[Name, int]:
    """`replay.seeds_needed`, where a configuration also goes on while a claim that uses it is open."""
    most = dict(needed)
    for outcome, configurations in claims:
        for name in configurations:
            most[name] = max(most.get(name, 0), 0 if outcome.settled else outcome.seeds)
    return most
