"""The section "Across tasks": what each regularizer does over several tasks, and a critical-difference diagram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import altair as alt
import pandas as pd

from kdcache.report.charts import Drawing, specification
from kdcache.report.sections import Drawn, draw
from kdcache.results.reading import Metrics, rows_of
from kdcache.results.schema import AcrossRow
from kdcache.statistics import wording
from kdcache.study.metrics import unit_of

STEP = 24  # pixels for a method's line


@dataclass(frozen=True)
class AcrossLine:
    """A regularizer over the tasks of one student, or of all students of an init."""

    group: str
    regularizer: str
    tasks: str
    difference: str
    interval: str
    permutation: str
    wilcoxon: str
    improvement: str
    bayes: str
    rank: str
    note: str


@dataclass(frozen=True)
class AcrossSection:
    template: ClassVar[str] = "sections/across.html.j2"
    rows: list[AcrossLine]
    wilcoxon_floor: str
    ranking: list[Drawn]

    @property
    def drawn(self) -> Sequence[Drawn]:
        return self.ranking


def make_section(metrics: Metrics) -> AcrossSection | None:
    shown = lines(metrics)
    return AcrossSection(shown, limits(metrics), draw("ranking", diagrams(metrics))) if shown else None


def lines(metrics: Metrics) -> list[AcrossLine]:
    """The rows of across.csv whose group has two or more tasks; the baseline's line has only a rank."""
    return [_line(row) for row in rows_of(AcrossRow, _several(metrics))]


def _several(metrics: Metrics) -> pd.DataFrame:
    if metrics.across.empty:
        return metrics.across
    most = metrics.across.groupby(["scope", "group"])["tasks"].transform("max")
    return metrics.across[most >= 2]


def _line(row: AcrossRow) -> AcrossLine:
    return AcrossLine(
        group=_group(row.scope, row.group),
        regularizer=row.regularizer,
        tasks=wording.number(row.tasks, 0),
        difference=wording.gain(row.difference, unit_of(row.metric)),
        interval=wording.NONE
        if wording.missing(row.difference)
        else wording.gains(row.ci_low, row.ci_high, unit_of(row.metric)),
        permutation=wording.p_value(row.permutation_p_corrected),
        wilcoxon=wording.p_value(row.wilcoxon_p_corrected),
        improvement=_percent(row.improvement),
        bayes=_bayes(row),
        rank=wording.number(row.mean_rank, 2),
        note=row.note,
    )


def _group(scope: str, group: str) -> str:
    return f"all {group} students" if scope == "init" else str(group)


def _percent(share: float | None) -> str:
    return wording.NONE if share is None else f"{share:.0%}"


def _bayes(row: AcrossRow) -> str:
    if wording.missing(row.bayes_within):
        return wording.NONE
    shares = (row.bayes_worse, row.bayes_within, row.bayes_better)
    return " / ".join(_percent(share) for share in shares)


def limits(metrics: Metrics) -> str:
    """The smallest p that Wilcoxon's test can give with so many tasks, in words; empty without several tasks."""
    floors = _several(metrics)["wilcoxon_floor"].dropna()
    return f"{floors.max():.3g}" if len(floors) else ""


def diagrams(metrics: Metrics) -> list[Drawing]:
    """One critical-difference diagram per group that has a ranking."""
    rows = _several(metrics).dropna(subset=["mean_rank", "critical_difference"])
    groups = rows.groupby(["scope", "group"], sort=False)
    return [_diagram(_group(str(key[0]), str(key[1])), group) for key, group in groups]


def cliques(ranks: list[float], critical: float) -> list[tuple[float, float]]:
    """The longest runs of two or more sorted ranks that lie within `critical`, as (first, last)."""
    runs: list[tuple[float, float]] = []
    for start in ranks:
        last = max(rank for rank in ranks if rank - start <= critical)
        if last > start and (not runs or last > runs[-1][1]):
            runs.append((start, last))
    return runs


def _diagram(title: str, rows: pd.DataFrame) -> Drawing:
    ranked = rows.sort_values("mean_rank", kind="stable")
    critical, tasks = float(ranked["critical_difference"].iloc[0]), int(ranked["ranked_tasks"].iloc[0])
    named = [
        (str(name), float(rank))
        for name, rank in zip(ranked["regularizer"], ranked["mean_rank"], strict=True)
    ]
    spec = _spec(named, critical)
    said = ", ".join(f"{name} {rank:.2f}" for name, rank in named)
    friedman = wording.p_value(ranked["friedman_p"].iloc[0])
    tested = "" if friedman == wording.NONE else f"; Friedman p {friedman}"
    words = (
        f"{title}, {tasks} tasks. Mean ranks, 1 is best: {said}. Critical difference {critical:.2f}{tested}."
    )
    return Drawing(f"{title}, {wording.count(tasks, 'task')}{tested}", spec, words)


def _spec(named: list[tuple[str, float]], critical: float) -> dict[str, Any]:
    """Methods by rank, one a line; below, bars join methods that differ by less than the critical difference."""
    bars = cliques([rank for _, rank in named], critical)
    lines = len(named) + len(bars) + 1
    domain = [0.8, max(len(named), 1 + critical) + 0.2]
    axis = alt.Axis(orient="top", grid=False, tickMinStep=1)
    x = alt.X("rank:Q", title="mean rank (1 is best)", scale=alt.Scale(domain=domain, nice=False), axis=axis)
    y = alt.Y("line:Q", axis=None, scale=alt.Scale(domain=[lines - 0.5, -0.5], nice=False))
    points = [{"regularizer": name, "rank": rank, "line": line} for line, (name, rank) in enumerate(named)]
    joined = [
        {"rank": low, "end": high, "line": len(named) + place, "what": "not told apart"}
        for place, (low, high) in enumerate(bars)
    ]
    size = {
        "rank": 1.0,
        "end": 1 + critical,
        "line": lines - 1,
        "what": f"critical difference {critical:.2f}",
    }
    dots = alt.Chart(alt.InlineData(values=points)).encode(x=x, y=y)
    rules = alt.Chart(alt.InlineData(values=[*joined, size])).encode(x=x, y=y)
    # A name is put on the side of its dot that has room.
    middle = (domain[0] + domain[1]) / 2
    left, right = f"datum.rank <= {middle}", f"datum.rank > {middle}"
    words: dict[str, Any] = {"style": "verdict", "aria": False}
    layers = [
        rules.mark_rule(strokeWidth=4, strokeCap="round", style="zero", aria=False).encode(x2="end:Q"),
        rules.mark_text(**words, align="left", dx=8).encode(x="end:Q", text="what:N"),
        dots.mark_point(filled=True, size=70, opacity=1, color="#3a7fc4").encode(
            tooltip=[alt.Tooltip("regularizer:N"), alt.Tooltip("rank:Q", title="mean rank", format=".2f")]
        ),
        dots.transform_filter(left).mark_text(**words, align="left", dx=8).encode(text="regularizer:N"),
        dots.transform_filter(right).mark_text(**words, align="right", dx=-8).encode(text="regularizer:N"),
    ]
    return specification(alt.LayerChart(layer=layers), STEP * lines)
