"""The section "How much of a teacher must be stored?": KD from smaller caches against KD from the full one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import altair as alt

from kdcache.report.charts import Drawing, method_scales, specification
from kdcache.report.sections import Drawn, draw
from kdcache.results.reading import Metrics
from kdcache.statistics import wording
from kdcache.study.metrics import unit_of

HEIGHT = 260  # pixels
GOOD = ("better", "equivalent")


@dataclass(frozen=True)
class StorageLine:
    """KD from one cache, and what it gains over KD from the whole distributions."""

    group: str
    regularizer: str
    stored: str
    size: str
    score: str
    gain: str
    interval: str
    p: str
    verdict: str
    sign: str


@dataclass(frozen=True)
class StorageSection:
    template: ClassVar[str] = "sections/storage.html.j2"
    said: list[str]
    rows: list[StorageLine]
    curves: list[Drawn]

    @property
    def drawn(self) -> Sequence[Drawn]:
        return self.curves


def make_section(metrics: Metrics) -> StorageSection | None:
    rows = metrics.summary.get("storage", [])
    if not rows:
        return None
    groups = _grouped(rows)
    lines = [_line(row) for of_one in groups for row in sorted(of_one, key=_size)]
    return StorageSection(
        [in_a_sentence(of_one) for of_one in groups], lines, draw("storage", diagrams(rows))
    )


def in_a_sentence(rows: list[dict[str, Any]]) -> str:
    """The smallest cache that is shown to be as good as the whole distributions, of one task and student."""
    first, good = rows[0], [row for row in rows if row["verdict"] in GOOD or row["negligible"]]
    whole = f"{first['task']} / {first['student']}: of {_bytes(first['against_bytes'])} a token"
    margin = wording.amount(first["margin"], unit_of(first["metric"]))
    if not good:
        return f"{whole}, no smaller cache is shown to be within {margin}."
    least = min(good, key=_size)
    enough = f"{_bytes(least['bytes_per_token'])} are enough ({least['stored']})"
    better = least["verdict"] == "better" and not least["negligible"]
    found = "better than" if better else f"within {margin} of"
    return f"{whole}, {enough}: the student is shown to be {found} one that learns from every token."


def diagrams(rows: list[dict[str, Any]]) -> list[Drawing]:
    """One chart per task and student: bytes a token, and what is lost or gained."""
    known = [
        row for row in rows if not (wording.missing(row["difference"]) or row["bytes_per_token"] is None)
    ]
    return [_diagram(of_one) for of_one in _grouped(known)]


def _grouped(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    pairs = dict.fromkeys((row["task"], row["student"]) for row in rows)
    return [[row for row in rows if (row["task"], row["student"]) == pair] for pair in pairs]


def _of(row: dict[str, Any]) -> str:
    return wording.configuration(row["task"], row["student"])


def _size(row: dict[str, Any]) -> float:
    return float(row["bytes_per_token"] or 0)


def _bytes(size: float | None) -> str:
    return "unknown bytes" if size is None else f"{size:,.0f} bytes"


def _line(row: dict[str, Any]) -> StorageLine:
    unit = unit_of(row["metric"])
    return StorageLine(
        group=f"{_of(row)}, against {row['against']} ({_bytes(row['against_bytes'])} a token, "
        f"{wording.score(row['against_mean'], unit)} {wording.metric(row['metric'])})",
        regularizer=row["regularizer"],
        stored=row["stored"],
        size=_bytes(row["bytes_per_token"]),
        score=wording.score(row["mean"], unit),
        gain=wording.gain(row["difference"], unit),
        interval=wording.gains(row["ci_low"], row["ci_high"], unit),
        p=wording.p_value(row["tost_p_corrected" if row["verdict"] == "equivalent" else "t_p_corrected"]),
        verdict=wording.verdict_words(row["verdict"], row["negligible"]),
        sign=row["verdict"],
    )


def _diagram(rows: list[dict[str, Any]]) -> Drawing:
    lines = map(_line, rows)
    said = "; ".join(f"{line.regularizer} {line.size} a token, {line.gain}, {line.verdict}" for line in lines)
    return Drawing(_of(rows[0]), specification(_chart(rows), HEIGHT), f"{_of(rows[0])}. {said}.")


def _chart(rows: list[dict[str, Any]]) -> alt.LayerChart:
    unit, margin = unit_of(rows[0]["metric"]), rows[0]["margin"]
    colours, shapes = method_scales([row["regularizer"] for row in rows], first=1)
    legend = alt.Legend(orient="top", title=None, columns=2, symbolOpacity=1)
    sign = "datum.value > 0 ? '+' + datum.label : datum.label"
    y = alt.Y(
        "difference:Q",
        title=f"{unit.gained} than with every token",
        axis=alt.Axis(grid=False, tickCount=6, labelExpr=sign),
    )
    x = alt.X(
        "bytes:Q", title="bytes a token", scale=alt.Scale(type="log", nice=False, padding=20), axis=_ticks()
    )
    shared = alt.Chart().encode(x=x, y=y, color=alt.Color("regularizer:N", scale=colours, legend=legend))
    bounds = [{"difference": at} for at in (-margin, 0.0, margin)]
    lines = (
        alt.Chart(alt.InlineData(values=bounds))
        .mark_rule(style="zero", aria=False, strokeDash=[4, 4])
        .encode(y=y)
    )
    intervals = shared.mark_rule(strokeWidth=2, aria=False).encode(y=alt.Y("low:Q"), y2="high:Q")
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("regularizer", "stored", "gain", "interval", "verdict")]
    points = shared.mark_point(filled=True, size=70, opacity=1).encode(
        shape=alt.Shape("regularizer:N", scale=shapes, legend=legend), tooltip=tooltip
    )
    return alt.LayerChart(data=alt.InlineData(values=_records(rows)), layer=[lines, intervals, points])


def _ticks() -> alt.Axis:
    return alt.Axis(grid=False, tickCount=5, format="~s", labelAngle=0)


def _records(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = [_line(row) for row in rows]
    return [
        {
            "regularizer": line.regularizer,
            "stored": line.stored,
            "bytes": row["bytes_per_token"],
            "difference": row["difference"],
            "low": row["difference"] if row["ci_low"] is None else row["ci_low"],
            "high": row["difference"] if row["ci_high"] is None else row["ci_high"],
            "gain": line.gain,
            "interval": line.interval,
            "verdict": line.verdict,
        }
        for row, line in zip(rows, lines, strict=True)
    ]
