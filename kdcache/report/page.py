"""Write the report: one self-contained HTML page, and the main figure as SVG and PNG beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdcache.report import (
    across,
    calibration,
    charts,
    claims,
    collapsed,
    comparisons,
    costs,
    curves,
    declared,
    differences,
    interactions,
    looks,
    origin,
    rowwise,
    storage,
    tables,
    teachers,
    tuning,
)
from kdcache.report.downloads import downloads
from kdcache.report.sections import Section
from kdcache.results.reading import Metrics, read_metrics
from kdcache.statistics import wording
from kdcache.study import Study
from kdcache.study.metrics import unit_of

# How much a page shows unfolded; the rest is a click away, so that a study of 1,200 trials still opens quickly.
OPEN = {"panels_open": 6, "tables_open": 3, "rows_open": 40}


def write_report(metrics_folder: Path, out: Path, study: Study) -> Path:
    """Write `out`/index.html, figure.svg and figure.png from the files of a metrics folder alone.

    The page is self-contained: it loads nothing and opens from a file, offline.

    Returns:
        The path of the page.

    Raises:
        ComparisonError: a metrics file is missing or faulty.
    """
    metrics = read_metrics(metrics_folder)
    panels = charts.panels(metrics, 1 - study.comparison.alpha)
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    with charts.unchecked():
        page.write_text(render(metrics, study, panels), encoding="utf-8")
    write_figure(metrics, panels, out / "figure.svg", out / "figure.png")
    return page


def write_figure(
    metrics: Metrics, panels: list[charts.Panel], svg: Path | None = None, png: Path | None = None
) -> None:
    """Write the main figure, unless the study compares nothing."""
    if panels:
        unit = unit_of(str(metrics.comparisons["metric"].iloc[0]))
        margin = wording.margins(metrics.comparisons["margin"], unit)
        charts.write_static(charts.static_figure(panels, margin), svg, png)


def render(metrics: Metrics, study: Study, panels: list[charts.Panel]) -> str:
    """The page as text; the same text for the same metrics."""
    parts = make_sections(metrics, study, panels)
    template = _environment().get_template("report.html.j2")
    return template.render(
        sections=parts,
        scope=declared.scope(metrics, study),
        teachers=teachers.in_a_sentence(metrics),
        in_short=claims.in_short(metrics),
        files=downloads(metrics),
        charts=_charts(parts),
        vega=Markup(charts.javascript()),
        **OPEN,
        **_terms(metrics, study),
    )


def make_sections(metrics: Metrics, study: Study, panels: list[charts.Panel]) -> list[Section]:
    """The page's sections in order; a section with nothing to show is left out."""
    shown: tuple[Section | None, ...] = (
        claims.make_section(metrics, study),
        teachers.make_section(metrics, study),
        collapsed.make_section(metrics, study),
        differences.make_section(panels),
        storage.make_section(metrics),
        tables.make_section(metrics, study),
        tuning.make_section(metrics, study),
        looks.make_section(metrics, study),
        comparisons.make_section(metrics),
        interactions.make_section(metrics),
        across.make_section(metrics),
        rowwise.make_section(metrics),
        costs.make_section(metrics, study),
        tables.make_open_section(metrics, study),
        declared.make_section(study),
        curves.make_section(metrics),
        calibration.make_section(metrics, study),
        origin.make_section(metrics, study),
        declared.GlossarySection(),
    )
    return [section for section in shown if section is not None]


def _terms(metrics: Metrics, study: Study) -> dict[str, str]:
    """Terms of the study that many sections use."""
    return {
        "baseline": study.comparison.baseline,
        "confidence": declared.confidence(study),
        "margin": wording.margins(metrics.comparisons["margin"], study.unit),
        "unit": study.unit.plural,
        "gained": f"{study.unit.gained.capitalize()} {'over' if study.unit.sign > 0 else 'than'}",
        "together": declared.FAMILIES[study.comparison.family],
        "correction": declared.CORRECTIONS[study.comparison.correction],
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("kdcache.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sign"] = lambda verdict: wording.SIGNS.get(verdict, "")
    environment.filters["groupby_order"] = _in_groups
    return environment


def _in_groups(rows: list[Any], attribute: str) -> list[list[Any]]:
    """Runs of rows with the same value, in the order given (Jinja's own `groupby` sorts)."""
    return [list(group) for _, group in groupby(rows, key=lambda row: getattr(row, attribute))]


def _charts(parts: Sequence[Section]) -> dict[str, Any]:
    """The charts that report.js draws."""
    return {
        "themes": {name: charts.theme(name) for name in charts.PALETTES},
        "specs": {chart.id: chart.spec for part in parts for chart in part.drawn},
    }
