"""Slope charts: what each regularizer gains with a pretrained student and from scratch, joined by a line.

A flat line means that the start does not matter; a rising line means more gain from scratch. The numbers are those of
the interaction, from summary.json.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from kdcache.report.charts import Drawing, method_scales, over_baseline, specification
from kdcache.results.reading import Metrics
from kdcache.statistics import wording
from kdcache.study.metrics import unit_of

HEIGHT = 240  # pixels
STARTS = {"pretrained": "gain_pretrained", "from scratch": "gain_scratch"}
SAID = {"supported": "supported", "contradicted": "below the margin", "inconclusive": "inconclusive"}


def diagrams(metrics: Metrics) -> list[Drawing]:
    """One chart per task and pair of students; charts of one task share their axis."""
    rows = [row for row in metrics.summary.get("interaction", []) if _drawn(row)]
    pairs = dict.fromkeys((row["task"], row["scratch"], row["pretrained"]) for row in rows)
    of_pair = {
        pair: [row for row in rows if (row["task"], row["scratch"], row["pretrained"]) == pair]
        for pair in pairs
    }
    domains = {task: _domain([row for row in rows if row["task"] == task]) for task, _, _ in pairs}
    return [_diagram(of_one, domains[pair[0]]) for pair, of_one in of_pair.items()]


def _drawn(row: dict[str, Any]) -> bool:
    alone = row["scope"] == "pair" and row["regularizer"] != "all"
    return alone and not any(wording.missing(row[gain]) for gain in STARTS.values())


def _domain(rows: list[dict[str, Any]]) -> tuple[float, float]:
    gains = [0.0, *(row[gain] for row in rows for gain in STARTS.values())]
    pad = 0.08 * (max(gains) - min(gains)) or 1.0
    return min(gains) - pad, max(gains) + pad


def _diagram(rows: list[dict[str, Any]], domain: tuple[float, float]) -> Drawing:
    unit = unit_of(rows[0].get("metric", ""))
    title = f"{rows[0]['task']}: {rows[0]['pretrained']} and {rows[0]['scratch']}"
    spec = specification(_chart(rows, domain), HEIGHT)
    said = "; ".join(f"{row['regularizer']} {_change(row)}, {SAID[row['verdict']]}" for row in rows)
    return Drawing(title, spec, f"{title}. {unit.gained.capitalize()} pretrained, and from scratch: {said}.")


def _change(row: dict[str, Any]) -> str:
    unit = unit_of(row.get("metric", ""))
    pretrained, scratch = (wording.gain(row[gain], unit) for gain in STARTS.values())
    return f"{pretrained} and {scratch}, {wording.gain(row['interaction'], unit)} more from scratch"


def _records(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    unit = unit_of(rows[0].get("metric", ""))
    return [
        {"regularizer": row["regularizer"], "start": start, "gain": row[gain], "verdict": row["verdict"]}
        | {
            "said": f"{wording.gain(row[gain], unit)} {unit.plural}",
            "more": wording.gain(row["interaction"], unit),
            "shown": SAID[row["verdict"]],
        }
        | {"interval": wording.gains(row["ci_low"], row["ci_high"], unit)}
        for row in rows
        for start, gain in STARTS.items()
    ]


def _chart(rows: list[dict[str, Any]], domain: tuple[float, float]) -> alt.LayerChart:
    colours, shapes = method_scales([row["regularizer"] for row in rows], first=1)
    legend = alt.Legend(orient="top", title=None, columns=3, symbolOpacity=1)
    sign = "datum.value > 0 ? '+' + datum.label : datum.label"
    y = alt.Y(
        "gain:Q",
        title=over_baseline(unit_of(rows[0].get("metric", ""))),
        scale=alt.Scale(domain=list(domain), nice=False),
        axis=alt.Axis(grid=False, tickCount=6, labelExpr=sign),
    )
    x = alt.X(
        "start:N", sort=list(STARTS), title=None, axis=alt.Axis(labelAngle=0, ticks=False), scale=_ends()
    )
    shared = alt.Chart().encode(x=x, y=y, color=alt.Color("regularizer:N", scale=colours, legend=legend))
    zero = alt.Chart(alt.InlineData(values=[{"gain": 0.0}])).mark_rule(style="zero", aria=False).encode(y=y)
    lines = shared.mark_line(strokeWidth=2, aria=False).encode(
        detail="verdict:N", strokeDash=alt.StrokeDash("verdict:N", scale=_dashes(), legend=None)
    )
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("regularizer", "start")]
    tooltip += [alt.Tooltip("said:N", title="gain"), alt.Tooltip("more:N", title="more from scratch")]
    tooltip += [alt.Tooltip("interval:N"), alt.Tooltip("shown:N", title="verdict")]
    points = shared.mark_point(filled=True, size=60, opacity=1).encode(
        shape=alt.Shape("regularizer:N", scale=shapes, legend=legend), tooltip=tooltip
    )
    return alt.LayerChart(data=alt.InlineData(values=_records(rows)), layer=[zero, lines, points])


def _ends() -> alt.Scale:
    """The scale with the two starts at its ends, with room for their names."""
    return alt.Scale(type="point", padding=0.35)


def _dashes() -> alt.Scale:
    """A solid line if more gain from scratch is shown, a dotted one if less than the margin is, else a dashed one."""
    return alt.Scale(domain=list(SAID), range=[[1, 0], [2, 3], [6, 4]])
