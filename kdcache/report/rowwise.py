"""Row by row: what other seeds, and what other validation rows, would do to each difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdcache.report import wording
from kdcache.results.reading import Metrics


@dataclass(frozen=True)
class Examples:
    """A comparison's two sources of error, apart and together, in points; rows gained and lost."""

    where: str
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


def table(metrics: Metrics) -> list[Examples]:
    """The rows of examples.csv in words; none without that file."""
    return [_row(row) for row in metrics.examples.itertuples(index=False)]


def _row(row: Any) -> Examples:
    return Examples(
        where=f"{row.task}: {row.student}",
        regularizer=row.regularizer,
        difference=wording.signed(row.difference),
        sd_seeds=wording.number(row.sd_seeds, 2),
        sd_rows=wording.number(row.sd_rows, 2),
        sd_total=wording.number(row.sd_total, 2),
        interval=wording.interval(row.total_low, row.total_high),
        gained=wording.number(row.gained, 1),
        lost=wording.number(row.lost, 1),
        p=wording.p_value(row.rows_p_corrected),
        note=row.note,
    )


def sentence(metrics: Metrics) -> str:
    """What the two numbers are, and which one is larger how often; empty without examples.csv."""
    known = metrics.examples.dropna(subset=["sd_seeds", "sd_rows"])
    if known.empty:
        return ""
    seeds, rows = known["sd_seeds"].astype(float), known["sd_rows"].astype(float)
    sizes = sorted({int(n) for n in known["rows"]})
    span = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    larger = int((rows > seeds).sum())
    return (
        "Two things could have come out otherwise: the seeds (heads, scratch weights, data order) and the choice of "
        f"the {span} validation rows. Typically other seeds would move a difference by "
        f"{wording.number(seeds.median(), 2)} points and other rows by {wording.number(rows.median(), 2)} "
        f"(medians of the standard errors); the rows matter more in {larger} of {len(known)}. "
        "The verdicts above are about seeds, on these rows; the last interval is about both."
    )
