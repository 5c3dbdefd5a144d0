"""The section "Learning curves": the training loss of each student, epoch by epoch, one line a regularizer.

Each regularizer has its own loss (with soft labels, temperature squared and so on), so the levels of two lines must not
be compared. The curves show whether training had converged, and whether the seeds took the same course.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import altair as alt
import pandas as pd

from kdcache.report.charts import Drawing, method_scales, specification
from kdcache.report.sections import Drawn, draw
from kdcache.results.reading import Metrics, rows_of
from kdcache.results.schema import CurveRow
from kdcache.statistics import wording

HEIGHT = 220  # pixels


@dataclass(frozen=True)
class CurvesSection:
    template: ClassVar[str] = "sections/curves.html.j2"
    curves: list[Drawn]

    @property
    def drawn(self) -> Sequence[Drawn]:
        return self.curves


def make_section(metrics: Metrics) -> CurvesSection | None:
    drawings = diagrams(metrics)
    return CurvesSection(draw("curve", drawings)) if drawings else None


def diagrams(metrics: Metrics) -> list[Drawing]:
    """A chart per task and student."""
    groups = metrics.curves.groupby(["task", "student"], sort=False)
    return [_diagram(f"{key[0]}: {key[1]}", rows) for key, rows in groups]


def _diagram(title: str, rows: pd.DataFrame) -> Drawing:
    spec = specification(_chart(rows), HEIGHT)
    said = [_in_words(str(name), group) for name, group in rows.groupby("regularizer", sort=False)]
    return Drawing(title, spec, f"{title}. Mean training loss by epoch: {'; '.join(said)}.")


def _in_words(name: str, rows: pd.DataFrame) -> str:
    ordered = rows.sort_values("epoch")
    first, last = (wording.number(ordered["loss"].iloc[place], 3) for place in (0, -1))
    return f"{name} from {first} to {last} in {wording.count(len(ordered), 'epoch')}"


def _chart(rows: pd.DataFrame) -> alt.LayerChart:
    methods = list(dict.fromkeys(rows["regularizer"]))
    colours, shapes = method_scales(methods)
    legend = alt.Legend(orient="top", title=None, columns=3, symbolOpacity=1)
    integer_axis = alt.Axis(grid=False, tickMinStep=1, format="d")
    shared = alt.Chart().encode(
        x=alt.X("epoch:Q", title="epoch", axis=integer_axis, scale=alt.Scale(nice=False, padding=8)),
        color=alt.Color("regularizer:N", scale=colours, legend=legend),
    )
    loss = alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False), axis=alt.Axis(grid=False))
    tooltip = [alt.Tooltip("regularizer:N"), alt.Tooltip("epoch:Q"), alt.Tooltip("said:N", title="loss")]
    tooltip += [alt.Tooltip("seeds:Q")]
    spread = shared.transform_filter("isValid(datum.low)").mark_area(opacity=0.12, aria=False)
    points = shared.mark_point(filled=True, size=40, opacity=1)
    layers = [
        spread.encode(y=alt.Y("low:Q", title="training loss", scale=alt.Scale(zero=False)), y2="high:Q"),
        shared.mark_line(strokeWidth=1.5, aria=False).encode(y=loss),
        points.encode(y=loss, shape=alt.Shape("regularizer:N", scale=shapes, legend=legend), tooltip=tooltip),
    ]
    # the data are given once, for all layers, since Altair copies each layer's own data with every call
    return alt.LayerChart(data=alt.InlineData(values=_records(rows)), layer=layers)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [_record(row, row.loss) for row in rows_of(CurveRow, rows) if row.loss is not None]


def _record(row: CurveRow, loss: float) -> dict[str, Any]:
    low, high = (None, None) if row.sd is None else (loss - row.sd, loss + row.sd)
    return {
        "regularizer": row.regularizer,
        "epoch": row.epoch,
        "loss": _rounded(loss),
        "low": _rounded(low),
        "high": _rounded(high),
        "seeds": row.seeds,
        "said": wording.mean_sd(loss, row.sd, 3),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
