"""The section on looks: each comparison's interval from look to look, and how many trials the design saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import altair as alt

from kdcache.report import declared
from kdcache.report.charts import Drawing, method_scales, specification
from kdcache.report.sections import Drawn, draw
from kdcache.results.reading import Metrics, rows_of
from kdcache.results.schema import ComparisonRow, LookRow
from kdcache.statistics import wording
from kdcache.study import Study
from kdcache.study.metrics import Unit, unit_of

HEIGHT = 200  # pixels


@dataclass(frozen=True)
class LooksSection:
    """The design in words, one chart a student, and any declarations changed after trials had been judged."""

    template: ClassVar[str] = "sections/looks.html.j2"
    design: str
    saved: str
    changed: list[str]
    paths: list[Drawn]

    @property
    def drawn(self) -> Sequence[Drawn]:
        return self.paths


def make_section(metrics: Metrics, study: Study) -> LooksSection | None:
    """The section; None for a design with one look."""
    if len(study.looks) < 2 or metrics.looks.empty:
        return None
    return LooksSection(
        declared.design_in_words(study),
        _saved(metrics, study),
        list(_changes(metrics)),
        draw("look", diagrams(metrics)),
    )


def _saved(metrics: Metrics, study: Study) -> str:
    """How many trials were saved, compared with a fixed design of the same maximum."""
    ran, most = len(metrics.trials), len(list(study.configurations())) * len(study.seeds)
    if declared.open_comparisons(metrics, study):
        return f"{ran:,} trials ran so far, of {most:,} at most."
    share = wording.number(100 * (1 - ran / most), 0)
    seeds = wording.count(len(study.seeds), "seed")
    return (
        f"{ran:,} trials ran; {seeds} for every configuration would have been {most:,}: {share}% were saved."
    )


def _changes(metrics: Metrics) -> Iterator[str]:
    """For each change of the declaration: the keys that changed, with their old and new values.

    `settle` may change: it enters no test, and a comparison that has its verdict keeps it (docs/settle.md).
    """
    declarations = metrics.provenance.get("declared", [])
    for before, after in pairwise(declarations):
        keys = [key for key in {**before, **after} if key != "settle" and before.get(key) != after.get(key)]
        if keys:
            yield "; ".join(f"{key}: {before.get(key)} became {after.get(key)}" for key in keys)


def diagrams(metrics: Metrics) -> list[Drawing]:
    """A chart per task and student."""
    compared = list(rows_of(ComparisonRow, metrics.comparisons))
    margins = {(row.task, row.student): row.margin for row in compared}
    units = {row.task: unit_of(row.metric) for row in compared}
    by_student: dict[tuple[str, str], list[LookRow]] = {}
    for row in rows_of(LookRow, metrics.looks):
        by_student.setdefault((row.task, row.student), []).append(row)
    return [
        _diagram(wording.configuration(*key), rows, margins[key], units[key[0]])
        for key, rows in by_student.items()
    ]


def _diagram(title: str, rows: list[LookRow], margin: float, unit: Unit) -> Drawing:
    said = "; ".join(_in_words(row, unit) for row in rows)
    spec = specification(_chart(rows, margin, unit), HEIGHT)
    return Drawing(title, spec, f"{title}. Difference and repeated interval at each look: {said}.")


def _in_words(row: LookRow, unit: Unit) -> str:
    ends = wording.gains(row.ci_low, row.ci_high, unit)
    seeds = wording.count(row.seeds, "seed")
    return f"{row.regularizer} after {seeds} {wording.gain(row.difference, unit)} {ends}, {row.outcome}"


def _chart(rows: list[LookRow], margin: float, unit: Unit) -> alt.LayerChart:
    methods = list(dict.fromkeys(row.regularizer for row in rows))
    colours, shapes = method_scales(methods, first=1)
    legend = alt.Legend(orient="top", title=None, columns=2, symbolOpacity=1)
    band = alt.Chart(alt.InlineData(values=[{"low": -margin, "high": margin}]))
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0.0}]))
    base = alt.Chart(alt.InlineData(values=[_record(row, unit) for row in rows])).encode(
        x=alt.X("seeds:O", title="seeds", sort=None, axis=alt.Axis(labelAngle=0, grid=False)),
        xOffset=alt.XOffset("regularizer:N", sort=methods),
        color=alt.Color("regularizer:N", scale=colours, legend=legend, sort=methods),
    )
    tooltip = [
        alt.Tooltip(f"{name}:N") for name in ("regularizer", "seeds", "difference", "interval", "outcome")
    ]
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=_y("gain", unit),
        shape=alt.Shape("regularizer:N", scale=shapes, legend=legend, sort=methods),
        tooltip=tooltip,
    )
    intervals = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, aria=False)
    return alt.LayerChart(
        layer=[
            band.mark_rect(style="margin", aria=False).encode(y=_y("low", unit), y2="high:Q"),
            zero.mark_rule(style="zero", aria=False).encode(y=_y("zero", unit)),
            intervals.encode(y=_y("low", unit), y2="high:Q"),
            points,
        ]
    )


def _y(field: str, unit: Unit) -> alt.Y:
    return alt.Y(f"{field}:Q", title=unit.gained, axis=alt.Axis(grid=False), scale=alt.Scale(zero=False))


def _record(row: LookRow, unit: Unit) -> dict[str, Any]:
    return {
        "regularizer": row.regularizer,
        "seeds": row.seeds,
        "gain": row.difference,
        "low": row.ci_low,
        "high": row.ci_high,
        "difference": f"{wording.gain(row.difference, unit)} {unit.plural}",
        "interval": wording.gains(row.ci_low, row.ci_high, unit),
        "outcome": row.outcome,
    }
