"""The section "Does it help more from scratch?": a table, and the slopes below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from kdcache.report import slopes
from kdcache.report.claims import claim_rows
from kdcache.report.sections import Drawn, draw
from kdcache.results.reading import Metrics
from kdcache.statistics import wording
from kdcache.study.metrics import unit_of


@dataclass(frozen=True)
class InteractionLine:
    """How much more a regularizer gains from scratch than pretrained, for a pair of students or over all pairs."""

    group: str
    regularizer: str
    scratch: str
    pretrained: str
    difference: str
    interval: str
    p: str
    below_p: str
    n: str
    verdict: str
    shown: str
    note: str


def interaction_lines(metrics: Metrics) -> list[InteractionLine]:
    """The rows of `interaction` in summary.json; a pool of fewer than two pairs is left out."""
    rows = metrics.summary.get("interaction", [])
    return [_interaction(row, metrics) for row in rows if row["scope"] == "pair" or row["n"] > 1]


def _interaction(row: dict[str, Any], metrics: Metrics) -> InteractionLine:
    pair = f"{wording.configuration(row['task'], row['scratch'])} against {row['pretrained']}"
    all_of_them = f"{claim_rows(metrics).pool(row['n'])}, each pair’s mean as one value"
    unit = unit_of(row.get("metric", ""))
    return InteractionLine(
        group=pair if row["scope"] == "pair" else all_of_them,
        regularizer="mean of all" if row["regularizer"] == "all" else row["regularizer"],
        scratch=wording.gain(row["gain_scratch"], unit),
        pretrained=wording.gain(row["gain_pretrained"], unit),
        difference=wording.gain(row["interaction"], unit),
        interval=wording.gains(row["ci_low"], row["ci_high"], unit),
        p=wording.p_value(row["p_corrected"]),
        below_p=wording.p_value(row.get("below_p_corrected")),  # older files lack it
        n=f"{row['n']} {row['unit']}",
        verdict=row["verdict"],
        shown=wording.verdict_words(slopes.SAID[row["verdict"]], row.get("negligible", False)),
        note=row["note"],
    )


@dataclass(frozen=True)
class InteractionSection:
    template: ClassVar[str] = "sections/interaction.html.j2"
    rows: list[InteractionLine]
    slopes: list[Drawn]

    @property
    def drawn(self) -> Sequence[Drawn]:
        return self.slopes


def make_section(metrics: Metrics) -> InteractionSection | None:
    lines = interaction_lines(metrics)
    return InteractionSection(lines, draw("slope", slopes.diagrams(metrics))) if lines else None
