"""The main figure: paired differences with intervals, scratch beside pretrained; and what all charts share.

The figure has one panel per task and architecture. Every panel is a separate Vega-Lite chart: the page draws each as
wide as its column, and the static figure (`figure.svg`, `figure.png`) puts the same panels side by side.
"""

from __future__ import annotations

import base64
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
from altair.utils.schemapi import debug_mode

from kdcache.report.bundle import bundled
from kdcache.results.reading import Metrics
from kdcache.statistics import wording
from kdcache.study.metrics import Unit, unit_of

INITS = ("pretrained", "scratch")

# Blue and orange differ for every common colour vision, and have a contrast of 3:1 or more on both backgrounds.
COLOURS = {"pretrained": "#3a7fc4", "scratch": "#d2761b"}
SHAPES = {"pretrained": "circle", "scratch": "diamond"}
MARKS = {"pretrained": "blue circle: pretrained student", "scratch": "orange diamond: from scratch"}

# Regularizers: Okabe and Ito's colours, which differ for every common colour vision; each also has its own shape.
METHOD_COLOURS = ["#7a828e", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#8a5fbf"]
METHOD_SHAPES = [
    *("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "stroke"),
]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
STATIC_FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
PALETTES = {
    "light": {"page": "#ffffff", "ink": "#1d2129", "soft": "#59616e", "line": "#d9dde3", "band": "#e9edf2"},
    "dark": {"page": "#1b1f26", "ink": "#e6e9ee", "soft": "#a3acb9", "line": "#39414d", "band": "#2a313b"},
}
NARROW = 420  # pixels; in narrower panels the verdicts' words would leave too little room for the intervals
GAP = 0.3  # the part of a regularizer's band that stays empty towards its neighbours
ROW_STEP = 17  # pixels for a student's line
STATIC_WIDTH = 360  # pixels
MOST_DENSE = 50  # panels up to which the figure is drawn at twice the size (about 150 MB of pixels in memory)


@dataclass(frozen=True)
class Drawing:
    """A chart of the page: a Vega-Lite specification without width and theme (the page adds them), and its alt text."""

    title: str
    spec: dict[str, Any]
    alt: str


@dataclass(frozen=True)
class Panel:
    """One panel, for a task and architecture; `rows` are the comparisons of its students."""

    task: str
    title: str
    students: list[str]
    rows: pd.DataFrame
    domain: tuple[float, float]
    alt: str

    @property
    def unit(self) -> Unit:
        return unit_of(str(self.rows["metric"].iloc[0]))

    @cached_property
    def spec(self) -> dict[str, Any]:
        return specification(chart(self), _height(self))


def panels(metrics: Metrics, confidence: float) -> list[Panel]:
    """The figure's panels, in the order of comparisons.csv."""
    rows = _with_architecture(metrics)
    verdicts = zip(rows["verdict"], rows["negligible"], rows["outcome"], strict=True)
    rows["verdict_words"] = [wording.outcome_words(*verdict) for verdict in verdicts]
    domains = {str(task): _domain(group) for task, group in rows.groupby("task", sort=False)}
    groups = rows.groupby(["task", "checkpoint", "layers"], sort=False, dropna=False)
    return [_panel(str(key[0]), group, domains[str(key[0])], confidence) for key, group in groups]


def inits(shown: list[Panel]) -> list[str]:
    """The kinds of students in the panels: pretrained, from scratch, or both."""
    drawn = {init for panel in shown for init in panel.rows["init"]}
    return [init for init in INITS if init in drawn]


def _with_architecture(metrics: Metrics) -> pd.DataFrame:
    """Comparisons with their student's checkpoint and layers, by which scratch and pretrained students are paired."""
    columns = ["task", "student", "checkpoint", "layers"]
    students = metrics.trials[columns].drop_duplicates(["task", "student"])
    rows = metrics.comparisons.drop(columns=["checkpoint", "layers"], errors="ignore")
    return rows.merge(students, on=["task", "student"], how="left", validate="many_to_one")


def _domain(rows: pd.DataFrame) -> tuple[float, float]:
    """The axis of all panels of a task, so that panels can be compared; it always includes the margin."""
    edges = pd.concat([rows["ci_low"], rows["ci_high"], rows["difference"]]).dropna()
    margin = 1.3 * float(rows["margin"].max())
    low, high = min([-margin, *edges]), max([margin, *edges])
    pad = 0.03 * (high - low)
    return low - pad, high + pad


def _panel(task: str, rows: pd.DataFrame, domain: tuple[float, float], confidence: float) -> Panel:
    order = {init: place for place, init in enumerate(INITS)}
    rows = rows.sort_values("init", key=lambda inits: inits.map(order), kind="stable")
    students = list(dict.fromkeys(rows["student"]))
    title = f"{task}: {' and '.join(students)}"
    return Panel(task, title, students, rows, domain, _in_words(title, rows, confidence))


def _in_words(title: str, rows: pd.DataFrame, confidence: float) -> str:
    said = [_row_in_words(row) for row in rows.itertuples()]
    return (
        f"{title}. Difference from the baseline and {100 * confidence:g}% interval. " + "; ".join(said) + "."
    )


def _row_in_words(row: Any) -> str:
    unit = unit_of(row.metric)
    ends = wording.gains(row.ci_low, row.ci_high, unit)
    gain = f"{wording.gain(row.difference, unit)} {unit.plural}, {ends}, {row.verdict_words}"
    return f"{row.regularizer} on {row.student} ({row.init}) {gain}"


def chart(panel: Panel) -> alt.LayerChart:
    """A panel as a layered chart without size: margin, zero, intervals, points, verdicts."""
    methods = list(dict.fromkeys(panel.rows["regularizer"]))
    labels = alt.Axis(labelLimit=150, ticks=False, domain=False, labelPadding=8)
    bands = alt.Scale(paddingInner=GAP, paddingOuter=GAP / 2)
    base = alt.Chart(alt.InlineData(values=_records(panel.rows))).encode(
        y=alt.Y("regularizer:N", title=None, sort=methods, axis=labels, scale=bands),
        yOffset=alt.YOffset("student:N", sort=panel.students),
    )
    marks = [*_background(panel), _intervals(base, panel), *_points(base, panel), _verdicts(base)]
    return alt.LayerChart(layer=marks)


def specification(drawn: alt.LayerChart, height: int) -> dict[str, Any]:
    """A chart as a Vega-Lite specification without width and theme, which the page or the static figure adds.

    Args:
        drawn: the chart, whose height is set here; a copy, as `properties` makes, would take as long as drawing it.
        height: in pixels.
    """
    drawn.height = height
    # Not checked against Vega-Lite's schema: the check takes half a second a panel, and the tests draw one.
    spec: dict[str, Any] = drawn.to_dict(validate=False)
    spec.pop("config", None)
    return spec


def unchecked() -> AbstractContextManager[None]:
    """Keep Altair from checking each part of a chart against Vega-Lite's schema, which takes a quarter of the time."""
    return debug_mode(False)


def _height(panel: Panel) -> int:
    """A panel's height in pixels. (Vega-Lite warns of a step, its usual way, beside a width that follows the page.)"""
    return round(panel.rows["regularizer"].nunique() * len(panel.students) * ROW_STEP / (1 - GAP))


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    kept = ["student", "init", "regularizer", "difference", "ci_low", "ci_high", "verdict", "verdict_words"]
    shown = rows[kept].astype(object).where(rows[kept].notna(), None)
    unit = unit_of(str(rows["metric"].iloc[0]))
    shown["sign"] = [wording.SIGNS.get(verdict, "") for verdict in rows["verdict"]]
    shown["gain"] = [f"{wording.gain(value, unit)} {unit.plural}" for value in rows["difference"]]
    shown["interval"] = [
        wording.gains(*ends, unit) for ends in zip(rows["ci_low"], rows["ci_high"], strict=True)
    ]
    shown["seeds"] = [int(seeds) for seeds in rows["seeds"]]
    return [{str(key): value for key, value in record.items()} for record in shown.to_dict("records")]


def _x(field: str, panel: Panel) -> alt.X:
    scale = alt.Scale(domain=list(panel.domain), nice=False)
    sign = "datum.value > 0 ? '+' + datum.label : datum.label"
    axis = alt.Axis(labelExpr=sign, tickCount=6, grid=False, labelOverlap=True)
    return alt.X(f"{field}:Q", title=over_baseline(panel.unit), scale=scale, axis=axis)


def over_baseline(unit: Unit) -> str:
    """An axis of differences: "points gained over the baseline", "nats better than the baseline"."""
    return f"{unit.gained} {'over' if unit.sign > 0 else 'than'} the baseline"


def _colours() -> alt.Scale:
    return alt.Scale(domain=list(INITS), range=[COLOURS[init] for init in INITS])


def method_scales(methods: list[str], first: int = 0) -> tuple[alt.Scale, alt.Scale]:
    """The colour and the shape of each regularizer, by its place; the baseline has place 0 and is grey.

    `first` is the place of the first method: 1 if the baseline is not drawn.
    """
    looks = [_colour_and_shape(place) for place in range(first, first + len(methods))]
    colours, shapes = ([look[at] for look in looks] for at in (0, 1))
    return alt.Scale(domain=methods, range=colours), alt.Scale(domain=methods, range=shapes)


def _colour_and_shape(place: int) -> tuple[str, str]:
    """Grey is the baseline's alone. Where the other colours begin again, each goes with another shape than before."""
    turn, colour = divmod(max(place - 1, 0), len(METHOD_COLOURS) - 1)
    colour += place > 0
    return METHOD_COLOURS[colour], METHOD_SHAPES[(colour + turn) % len(METHOD_SHAPES)]


def _background(panel: Panel) -> list[alt.Chart]:
    margin = float(panel.rows["margin"].max())
    band = alt.Chart(alt.InlineData(values=[{"low": -margin, "high": margin}]))
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0.0}]))
    return [
        band.mark_rect(style="margin", aria=False).encode(x=_x("low", panel), x2="high:Q"),
        zero.mark_rule(style="zero", aria=False).encode(x=_x("zero", panel)),
    ]


def _intervals(base: alt.Chart, panel: Panel) -> alt.Chart:
    lines = base.transform_filter("isValid(datum.ci_low)").mark_rule(strokeWidth=2, aria=False)
    colour = alt.Color("init:N", scale=_colours(), legend=None)
    encoded: alt.Chart = lines.encode(x=_x("ci_low", panel), x2="ci_high:Q", color=colour)
    return encoded


def _points(base: alt.Chart, panel: Panel) -> list[alt.Chart]:
    """Points, filled if there is a verdict and hollow if inconclusive; a disc behind hides the interval's line."""
    shapes = alt.Scale(domain=list(INITS), range=[SHAPES[init] for init in INITS])
    placed = base.encode(x=_x("difference", panel), shape=alt.Shape("init:N", scale=shapes, legend=None))
    disc = placed.mark_point(style="disc", filled=True, size=85, opacity=1, aria=False)
    shown = [alt.Tooltip(f"{name}:N") for name in ("student", "init", "regularizer", "gain", "interval")]
    shown += [alt.Tooltip("verdict_words:N", title="verdict"), alt.Tooltip("seeds:N")]
    mark = placed.mark_point(size=75, strokeWidth=1.8, opacity=1).encode(
        stroke=alt.Stroke("init:N", scale=_colours(), legend=None),
        fill=alt.Fill("init:N", scale=_colours(), legend=None),
        fillOpacity=alt.FillOpacityValue(
            1, condition={"test": "datum.verdict === 'inconclusive'", "value": 0}
        ),
        tooltip=shown,
    )
    return [disc, mark]


def _verdicts(base: alt.Chart) -> alt.Chart:
    """The verdict at the right of its line: in words, or in a narrow panel as the sign that the tables use."""
    text = alt.ExprRef(f"containerSize()[0] < {NARROW} ? datum.sign : datum.verdict_words")
    words = base.mark_text(style="verdict", align="left", dx=10, aria=False, text=text)
    encoded: alt.Chart = words.encode(x=alt.value("width"))
    return encoded


def theme(name: str, font: str = FONT) -> dict[str, Any]:
    """The Vega-Lite configuration for the palette "light" or "dark"."""
    ink, soft, line = (PALETTES[name][tone] for tone in ("ink", "soft", "line"))
    return {
        "font": font,
        "background": None,
        "view": {"stroke": None},
        "axis": {"labelColor": ink, "titleColor": soft, "titleFontWeight": "normal", "labelFontSize": 12}
        | {"titleFontSize": 12, "titlePadding": 6, "domainColor": line, "tickColor": line},
        "legend": {"labelColor": ink, "labelFontSize": 12},
        "title": {
            "color": ink,
            "fontSize": 13,
            "anchor": "start",
            "subtitleColor": soft,
            "subtitleFont": font,
        },
        "style": {
            "margin": {"color": PALETTES[name]["band"]},
            "zero": {"color": soft, "strokeWidth": 1},
            "disc": {"color": PALETTES[name]["page"]},
            "verdict": {"color": soft, "fontSize": 12},
        },
    }


def fluid_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """A chart for the page: as wide as its column, with the page's theme and colours."""
    return spec | {"width": "container", "padding": {"left": 2, "right": 2, "top": 4, "bottom": 2}}


def static_image(spec: dict[str, Any]) -> str:
    """A chart as an SVG data URI in light colours: for paper, and for readers without JavaScript."""
    import vl_convert

    static_spec = spec | {"width": STATIC_WIDTH, "padding": 4}
    # The image has a text alternative; labels of the marks inside it would never be read out.
    svg = vl_convert.vegalite_to_svg(
        static_spec, vl_version=_version(), config=_static_config() | {"aria": False}
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def static_figure(shown: list[Panel], margin: str) -> dict[str, Any]:
    """All panels in one Vega-Lite specification with a title and a legend in words."""
    marks = [MARKS[init] for init in inits(shown)]
    legend = "; ".join([*marks, "hollow: inconclusive", f"shaded: within {margin} of the baseline"])
    title = {"text": "Difference from plain fine-tuning, paired by seed", "fontSize": 16, "offset": 14}
    parts = [panel.spec | {"width": 330, "title": {"text": panel.title}} for panel in shown]
    # Vega-Lite finds named data only at the top level: inside a part they would be empty.
    top = ("$schema", "datasets")
    return {
        "$schema": alt.SCHEMA_URL,
        "title": title | {"subtitle": legend},
        "datasets": {name: rows for part in parts for name, rows in part["datasets"].items()},
        "concat": [{key: part[key] for key in part if key not in top} for part in parts],
        "columns": min(2, len(shown)),
        "spacing": {"column": 48, "row": 28},
        "resolve": {"scale": {"yOffset": "independent"}},
        "padding": 18,
    }


def write_static(spec: dict[str, Any], svg: Path | None, png: Path | None) -> None:
    """Write the figure as SVG and PNG, on white; the PNG has twice the size, up to `MOST_DENSE` panels."""
    import vl_convert

    version, config = _version(), _static_config()
    if svg is not None:
        svg.write_text(vl_convert.vegalite_to_svg(spec, vl_version=version, config=config), encoding="utf-8")
    if png is not None:
        scale = 2 if len(spec.get("concat", ())) <= MOST_DENSE else 1
        png.write_bytes(vl_convert.vegalite_to_png(spec, vl_version=version, config=config, scale=scale))


def javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one script that sets `window.vegaEmbed`, to stand in a page."""
    return bundled(_version()).replace("</script", "<\\/script")


def _static_config() -> dict[str, Any]:
    return theme("light", STATIC_FONT) | {"background": PALETTES["light"]["page"]}


def _version() -> str:
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
