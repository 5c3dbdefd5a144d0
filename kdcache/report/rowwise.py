"""The section "Row by row": how much other seeds, and other validation rows, would change each difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdcache.report.sections import WithoutCharts
from kdcache.results.reading import Metrics, rows_of
from kdcache.results.schema import ExampleRow
from kdcache.statistics import wording
from kdcache.study.metrics import POINTS, unit_of


@dataclass(frozen=True)
class ExampleLine:
    """A comparison's two sources of error, apart and together, in the metric's unit; rows gained and lost."""

    group: str
    regularizer: str
    difference: str
    sd_seeds: str
    sd_rows: str
    sd_total: str
    interval: str
    gained: str
    lost: str
    p: str
    note: str


@dataclass(frozen=True)
class ExamplesSection(WithoutCharts):
    template: ClassVar[str] = "sections/examples.html.j2"
    rows: list[ExampleLine]
    sentence: str


def make_section(metrics: Metrics) -> ExamplesSection | None:
    shown = lines(metrics)
    return ExamplesSection(shown, sentence(metrics)) if shown else None


def lines(metrics: Metrics) -> list[ExampleLine]:
    """The rows of examples.csv in words; empty without that file."""
    return [_line(row) for row in rows_of(ExampleRow, metrics.examples)]


def _line(row: ExampleRow) -> ExampleLine:
    unit = unit_of(row.metric)
    return ExampleLine(
        group=wording.configuration(row.task, row.student),
        regularizer=row.regularizer,
        difference=wording.gain(row.difference, unit),
        sd_seeds=wording.size(row.sd_seeds, unit),
        sd_rows=wording.size(row.sd_rows, unit),
        sd_total=wording.size(row.sd_total, unit),
        interval=wording.gains(row.total_low, row.total_high, unit),
        gained=wording.number(row.gained, 1),
        lost=wording.number(row.lost, 1),
        p=wording.p_value(row.rows_p_corrected),
        note=row.note,
    )


def sentence(metrics: Metrics) -> str:
    """What the two errors are, and how often each is the larger; empty without examples.csv."""
    known = metrics.examples.dropna(subset=["sd_seeds", "sd_rows"])
    if known.empty:
        return ""
    unit = unit_of(str(known["metric"].iloc[0])) if "metric" in known else POINTS
    seeds, rows = known["sd_seeds"].astype(float), known["sd_rows"].astype(float)
    sizes = sorted({int(n) for n in known["rows"]})
    span = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    larger = int((rows > seeds).sum())
    return (
        "Two things could have come out otherwise: the seeds (heads, scratch weights, data order) and the choice of "
        f"the {span} validation rows. Typically other seeds would move a difference by "
        f"{wording.size(seeds.median(), unit)} {unit.plural} and other rows by {wording.size(rows.median(), unit)} "
        f"(medians of the standard errors); the rows matter more in {larger} of {len(known)}. "
        "The verdicts above are about seeds, on these rows; the last interval is about both."
    )
