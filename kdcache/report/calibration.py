"""The section "Calibration": is a student as sure as it is right? The table, and reliability diagrams.

Soft labels change confidence, and not all of them in the same direction. So calibration can change when accuracy does
not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import altair as alt
import pandas as pd

from kdcache.report.charts import Drawing, method_scales, specification
from kdcache.report.sections import Drawn, draw
from kdcache.results.reading import Metrics, rows_of
from kdcache.results.schema import CalibrationRow
from kdcache.statistics import wording
from kdcache.study import Study

NAMES = {"nll": "NLL", "brier": "Brier score", "ece": "ECE"}
DIGITS = 3
DIRECTIONS = ("better", "worse", "equivalent", "unclear")
FEWEST_ROWS = 20  # a bin with fewer rows shows more chance than anything about the model
HEIGHT = 260  # pixels


@dataclass(frozen=True)
class ScoreCell:
    """One calibration score: the mean with its sd, and the change from the baseline with its interval and direction."""

    mean: str
    change: str = ""
    interval: str = ""
    direction: str = ""  # one of DIRECTIONS; empty if it was not tested


@dataclass(frozen=True)
class CalibrationLine:
    """A configuration's NLL, Brier score and ECE, and its overconfidence (confidence minus accuracy) in points."""

    group: str
    regularizer: str
    scores: list[ScoreCell]
    overconfidence: str


@dataclass(frozen=True)
class CalibrationSection:
    template: ClassVar[str] = "sections/calibration.html.j2"
    rows: list[CalibrationLine]
    names: list[str]
    sentence: str
    reliability: list[Drawn]
    margins: str
    fewest_rows: int = FEWEST_ROWS

    @property
    def drawn(self) -> Sequence[Drawn]:
        return self.reliability


def make_section(metrics: Metrics, study: Study) -> CalibrationSection | None:
    shown = lines(metrics, study)
    if not shown:
        return None
    diagram = draw("reliability", diagrams(metrics))
    return CalibrationSection(shown, names(metrics), sentence(metrics), diagram, _margins(metrics))


def names(metrics: Metrics) -> list[str]:
    """The headings of `CalibrationLine.scores`."""
    return [NAMES[name] for name in _scores(metrics)]


def _margins(metrics: Metrics) -> str:
    """The declared margins, such as "NLL 0.05"; empty if there is none."""
    tested = rows_of(CalibrationRow, metrics.calibration)
    sizes = {row.metric: row.margin for row in tested if row.margin is not None}
    return wording.listing(f"{NAMES[name]} {size:g}" for name, size in sizes.items()) if sizes else ""


def _scores(metrics: Metrics) -> list[str]:
    return [name for name in NAMES if name in metrics.trials and metrics.trials[name].notna().any()]


def lines(metrics: Metrics, study: Study) -> list[CalibrationLine]:
    """NLL, Brier score and ECE (lower is better) of every configuration with trials.

    The change is that of calibration.csv; without that file it is the mean over the shared seeds, not tested.
    """
    columns, tested, sure = _scores(metrics), _tested(metrics), overconfidence(metrics.reliability)
    shown: list[CalibrationLine] = []
    for (task, student), trials in metrics.trials.groupby(["task", "student"], sort=False):
        if not columns or trials[columns].isna().all(axis=None):
            continue
        by_method = {
            str(key): group.set_index("seed")[columns] for key, group in trials.groupby("regularizer")
        }
        baseline = by_method.get(study.comparison.baseline)
        for method in (name for name in study.methods() if name in by_method):
            base = None if method == study.comparison.baseline else baseline
            rows = {name: tested.get((task, student, method, name)) for name in columns}
            gap = wording.signed(sure.get((str(task), str(student), method)), 1)
            scores = [_score(by_method[method], base, name, rows[name]) for name in columns]
            shown.append(CalibrationLine(wording.configuration(str(task), str(student)), method, scores, gap))
    return shown


def sentence(metrics: Metrics) -> str:
    """How often each regularizer is better or worse calibrated than the baseline; empty without calibration.csv."""
    rows = metrics.calibration
    if rows.empty:
        return ""
    groups = rows.groupby("regularizer", sort=False)["direction"]
    counts = {str(name): directions.value_counts().to_dict() for name, directions in groups}
    said = "; ".join(f"{name} {_directions(of_each)}" for name, of_each in counts.items())
    return f"Over all students and scores: {said}."


def likelihood(metrics: Metrics) -> str:
    """Which methods are better and worse than the baseline by NLL; empty where NLL is the judged metric itself."""
    rows = [row for row in rows_of(CalibrationRow, metrics.calibration) if row.metric == "nll"]
    if not rows or "nll" in set(metrics.comparisons["metric"]):
        return ""
    inits = dict.fromkeys(row.init for row in rows)
    said = (
        f"{init.capitalize()}: {_by_direction([row for row in rows if row.init == init])}" for init in inits
    )
    margin = f"The margin is {rows[0].margin:g} nats" if rows[0].margin else "No margin was declared for it"
    return f"{'. '.join(said)}. {margin}."


def _by_direction(rows: Sequence[CalibrationRow]) -> str:
    """Such as "better with kd; worse with tf_reg in 1 of 2"."""
    of_each = Counter(row.regularizer for row in rows)
    counts = Counter((row.direction, row.regularizer) for row in rows)
    words = (word for word in DIRECTIONS if any(direction == word for direction, _ in counts))
    return "; ".join(
        f"{word} with "
        + wording.listing(
            name if n == of_each[name] else f"{name} in {n} of {of_each[name]}"
            for (direction, name), n in counts.items()
            if direction == word
        )
        for word in words
    )


def _directions(counts: dict[Any, int]) -> str:
    known = (word for word in DIRECTIONS if counts.get(word))
    return wording.listing(f"{word} in {counts[word]}" for word in known)


def _tested(metrics: Metrics) -> dict[tuple[Any, ...], CalibrationRow]:
    rows = rows_of(CalibrationRow, metrics.calibration)
    return {(row.task, row.student, row.regularizer, row.metric): row for row in rows}


def _score(
    scores: pd.DataFrame, baseline: pd.DataFrame | None, name: str, tested: CalibrationRow | None
) -> ScoreCell:
    mean = wording.mean_sd(scores[name].mean(), scores[name].std(), DIGITS)
    if tested is not None:
        interval = wording.interval(tested.ci_low, tested.ci_high, DIGITS)
        return ScoreCell(mean, wording.signed(tested.difference, DIGITS), interval, tested.direction)
    change = None if baseline is None else float((scores[name] - baseline[name]).mean())
    return ScoreCell(mean, "" if change is None else wording.signed(change, DIGITS))


def overconfidence(reliability: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """Mean confidence minus accuracy of each (task, student, regularizer), in points; above 0 means too sure."""
    if reliability.empty:
        return {}
    gaps = reliability.assign(gap=reliability["rows"] * (reliability["confidence"] - reliability["accuracy"]))
    sums = gaps.groupby(["task", "student", "regularizer"], sort=False)[["gap", "rows"]].sum()
    shares = (100 * sums["gap"] / sums["rows"]).reset_index(name="share")
    keys = zip(shares["task"], shares["student"], shares["regularizer"], strict=True)
    return dict(zip(keys, map(float, shares["share"]), strict=True))


def diagrams(metrics: Metrics) -> list[Drawing]:
    """One reliability diagram per task and student: accuracy against confidence, a line for each regularizer."""
    rows = metrics.reliability[metrics.reliability["rows"] >= FEWEST_ROWS]
    groups = rows.groupby(["task", "student"], sort=False)
    return [_diagram(f"{key[0]}: {key[1]}", group) for key, group in groups]


def _diagram(title: str, rows: pd.DataFrame) -> Drawing:
    spec = specification(_chart(rows), HEIGHT)
    sure = overconfidence(rows)
    said = (f"{key[2]} {abs(gap):.1f} points {'above' if gap > 0 else 'below'}" for key, gap in sure.items())
    words = f"{title}. Reliability diagram. Mean confidence against accuracy: {'; '.join(said)}."
    return Drawing(title, spec, words)


def _chart(rows: pd.DataFrame) -> alt.LayerChart:
    low = float(min(rows["confidence"].min(), rows["accuracy"].min()))
    scale = alt.Scale(domain=[max(0.0, round(low - 0.05, 1)), 1.0], nice=False)
    methods = list(dict.fromkeys(rows["regularizer"]))
    columns = ["regularizer", "confidence", "accuracy", "rows"]
    records = rows[columns].round({"confidence": 4, "accuracy": 4}).to_dict("records")
    values = [{str(key): value for key, value in record.items()} for record in records]
    legend = alt.Legend(orient="top", title=None, columns=3, symbolOpacity=1)
    colours, shapes = method_scales(methods)
    shared = alt.Chart().encode(
        x=_axis("confidence", "how sure the student is", scale),
        y=_axis("accuracy", "how often it is right", scale),
        color=alt.Color("regularizer:N", scale=colours, legend=legend),
    )
    shape = alt.Shape("regularizer:N", scale=shapes, legend=legend)
    tooltip = [alt.Tooltip("regularizer:N"), alt.Tooltip("confidence:Q", format=".1%")]
    tooltip += [alt.Tooltip("accuracy:Q", format=".1%"), alt.Tooltip("rows:Q", format=",")]
    points = shared.mark_point(filled=True, size=55, opacity=1).encode(shape=shape, tooltip=tooltip)
    ends = [{"confidence": scale.domain[0], "accuracy": scale.domain[0]}, {"confidence": 1, "accuracy": 1}]
    diagonal = alt.Chart(alt.InlineData(values=ends)).mark_line(style="zero", aria=False, strokeDash=[4, 4])
    diagonal = diagonal.encode(x=shared.encoding.x, y=shared.encoding.y)
    layers = [diagonal, shared.mark_line(strokeWidth=1.5, aria=False), points]
    return alt.LayerChart(data=alt.InlineData(values=values), layer=layers)


def _axis(field: str, title: str, scale: alt.Scale) -> Any:
    axis = alt.Axis(format=".0%", grid=False, tickCount=5)
    kind = alt.X if field == "confidence" else alt.Y
    return kind(f"{field}:Q", title=title, scale=scale, axis=axis)
