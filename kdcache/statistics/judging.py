"""The verdict on one comparison, from its corrected p-values; and how many seeds an inconclusive one would need."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from kdcache.statistics import power
from kdcache.statistics.evidence import Evidence

Verdict: TypeAlias = Literal["better", "worse", "equivalent", "inconclusive"]
VERDICTS: tuple[Verdict, ...] = ("better", "worse", "equivalent", "inconclusive")


def verdict(
    difference: float | None, t_p: float | None, tost_p: float | None, alpha: float
) -> tuple[Verdict, bool]:
    """The verdict, and whether a significant difference is negligible, from corrected p-values.

    `difference` is a gain: positive is better.
    """
    within = tost_p is not None and tost_p <= alpha
    if difference is not None and t_p is not None and t_p <= alpha:
        return ("better" if difference > 0 else "worse"), within
    return ("equivalent" if within else "inconclusive"), False


def to_settle(evidence: Evidence, margin: float, at: float) -> dict[str, Any]:
    """How many seeds would settle a comparison, either way, at level `at`: the `seeds_*` columns of `compare`."""
    spread = evidence.spread
    if spread is None or evidence.difference is None:
        return {}
    difference = power.seeds_to_find(evidence.difference, spread, at)
    equivalence = power.seeds_to_equate(evidence.difference, spread, margin, at)
    ways = {"difference": difference, "equivalence": equivalence}
    known = {way: seeds for way, seeds in ways.items() if seeds is not None}
    by = min(known, key=lambda way: known[way], default=f"more than {power.MOST_SEEDS} seeds")
    return {
        "seeds_difference": difference,
        "seeds_equivalence": equivalence,
        "seeds_to_settle": known.get(by),
        "settled_by": by,
    }
