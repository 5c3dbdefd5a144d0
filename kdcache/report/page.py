"""The report: one HTML page that needs nothing else, and the figure as SVG and PNG beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdcache.report import (
    across,
    calibration,
    charts,
    comparisons,
    costs,
    curves,
    origin,
    rowwise,
    slopes,
    tables,
    wording,
)
from kdcache.report.claims import claims, in_short, margins
from kdcache.report.downloads import downloads
from kdcache.results.reading import Metrics, read_metrics
from kdcache.statistics import power
from kdcache.study import Study

CORRECTIONS = {
    "holm": "Holm",
    "bonferroni": "Bonferroni",
    "fdr_bh": "Benjamini–Hochberg",
    "none": "no correction",
}
FAMILIES = {
    "student": "the regularizers of one student on one task",
    "task": "all comparisons of one task",
    "study": "all comparisons of the study",
}
# What a page shows at once; more is a click away, so that a study of 1,200 trials still opens at once.
OPEN = {"panels_open": 6, "tables_open": 3, "rows_open": 40}


def write_report(metrics_folder: Path, out: Path, study: Study) -> Path:
    """Write `out`/index.html, figure.svg and figure.png from the files of a metrics folder alone.

    The page is self-contained: it loads nothing and opens from a file, offline.

    Returns:
        The path of the page.

    Raises:
        ComparisonError: a metrics file is missing or is not what it should be.
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
    """Write the main figure; nothing when the study compares nothing."""
    if panels:
        charts.write_static(charts.static_figure(panels, margins(metrics.comparisons)), svg, png)


def render(metrics: Metrics, study: Study, panels: list[charts.Panel]) -> str:
    """The page as text; the same text for the same metrics."""
    environment = Environment(
        loader=PackageLoader("kdcache.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sign"] = lambda verdict: wording.SIGNS.get(verdict, "")
    environment.filters["groupby_order"] = _in_groups
    template = environment.get_template("report.html.j2")
    return template.render(**OPEN, **_content(metrics, study, panels), vega=Markup(charts.javascript()))


def _in_groups(rows: list[Any], attribute: str) -> list[list[Any]]:
    """Runs of rows with the same value, in the order given (Jinja's own `groupby` sorts)."""
    return [list(group) for _, group in groupby(rows, key=lambda row: getattr(row, attribute))]


def _content(metrics: Metrics, study: Study, panels: list[charts.Panel]) -> dict[str, Any]:
    confidence = 1 - study.comparison.alpha
    drawn = _drawn("panel", panels)
    reliability = _drawn("reliability", calibration.diagrams(metrics))
    ranking = _drawn("ranking", across.diagrams(metrics))
    slope, curve = _drawn("slope", slopes.diagrams(metrics)), _drawn("curve", curves.diagrams(metrics))
    cost = costs.costs(metrics, study)
    headings, all_rows = comparisons.all_comparisons(metrics.comparisons)
    return {
        "baseline": study.comparison.baseline,
        "confidence": f"{100 * confidence:g}%",
        "scope": _scope(metrics, study),
        "in_short": in_short(metrics),
        "claims": claims(metrics),
        "certainty": _certainty(study),
        "panels": drawn,
        "charts": _charts([*drawn, *slope, *ranking, *curve, *reliability]),
        "margin": margins(metrics.comparisons),
        "tables": tables.main_tables(metrics, study),
        "interaction": comparisons.interaction(metrics),
        "slopes": slope,
        "curves": curve,
        "open": tables.open_questions(metrics.comparisons, confidence),
        "examples": rowwise.table(metrics),
        "examples_sentence": rowwise.sentence(metrics),
        "across": across.table(metrics),
        "wilcoxon_floor": across.limits(metrics),
        "ranking": ranking,
        "calibration": calibration.table(metrics, study),
        "calibration_names": calibration.names(metrics),
        "calibration_sentence": calibration.sentence(metrics),
        "reliability": reliability,
        "fewest_rows": calibration.FEWEST_ROWS,
        "cost": cost,
        "cost_sentence": _cost_sentence(cost),
        "decided": _decided(study),
        "together": FAMILIES[study.comparison.family],
        "correction": CORRECTIONS[study.comparison.correction],
        "limits": _limits(metrics),
        "headings": headings,
        "comparisons": all_rows,
        "verdicts": list(dict.fromkeys(row.verdict for row in all_rows)),
        "inits": charts.inits(panels),
        "downloads": downloads(metrics),
        "steps": origin.STEPS,
        "made_with": origin.made_with(metrics),
        "prints": origin.fingerprints(metrics),
        "params": yaml.safe_dump(study.model_dump(mode="json", exclude_defaults=True), sort_keys=False),
    }


def _certainty(study: Study) -> str:
    """How far the first screen can be relied on, in a sentence."""
    comparison = study.comparison
    return (
        f"Brackets are {100 * (1 - comparison.alpha):g}% intervals over {wording.count(len(study.seeds), 'seed')}. "
        f"A claim stands only if its test, corrected ({CORRECTIONS[comparison.correction]}), allows it; "
        "inconclusive is not “no difference”."
    )


def _scope(metrics: Metrics, study: Study) -> str:
    compared = metrics.trials["regularizer"][metrics.trials["regularizer"] != study.comparison.baseline]
    parts = (
        wording.count(compared.nunique(), "regularizer"),
        wording.count(metrics.trials["student"].nunique(), "student"),
        wording.count(metrics.trials["task"].nunique(), "task"),
        wording.count(metrics.trials["seed"].nunique(), "seed"),
        wording.count(len(metrics.trials), "trial"),
    )
    return ", ".join(parts)


def _drawn(name: str, drawings: Sequence[charts.Drawing | charts.Panel]) -> list[dict[str, Any]]:
    """Each chart with its place in the page, its specification and its picture."""
    return [
        {
            "id": f"{name}-{place}",
            "of": drawing,
            "spec": charts.fluid_spec(drawing.spec),
            "image": charts.static_image(drawing.spec),
        }
        for place, drawing in enumerate(drawings)
    ]


def _charts(drawn: list[dict[str, Any]]) -> dict[str, Any]:
    """What report.js draws."""
    return {
        "themes": {name: charts.theme(name) for name in charts.PALETTES},
        "specs": {chart["id"]: chart["spec"] for chart in drawn},
    }


def _cost_sentence(cost: costs.Cost) -> str:
    if not cost.teachers:
        return f"No teacher. The trials took {wording.seconds(cost.trial_seconds)} in all."
    online = "" if cost.online is None else f" (without a cache about {wording.seconds(cost.online)})"
    return (
        f"Teachers were trained and their logits cached once, in {wording.seconds(cost.teacher_seconds)}; "
        f"{wording.count(cost.readers, 'trial')} read those logits{online}. "
        f"All trials together took {wording.seconds(cost.trial_seconds)}, on {cost.device}."
    )


def _decided(study: Study) -> list[tuple[str, str]]:
    """What params.yaml fixed before any result was seen, and what kdcache fixes for every study."""
    comparison = study.comparison
    margin = (
        f"± {wording.points(size)} of {wording.metric(name)}" for name, size in comparison.margin.items()
    )
    return [
        ("Baseline", comparison.baseline),
        ("Judged by", _judged_by(study)),
        ("Level (alpha)", f"{comparison.alpha:g}, so intervals are {100 * (1 - comparison.alpha):g}%"),
        ("Equivalence margin", wording.listing(margin)),
        ("ROPE (across tasks)", "the margin of each task"),
        ("Correction", CORRECTIONS[comparison.correction]),
        ("Corrected together in the tables", FAMILIES[comparison.family]),
        ("Corrected together in a claim", "all comparisons that the claim is about"),
        ("Seeds", ", ".join(str(seed) for seed in study.seeds)),
        ("Test of a difference", "two-sided paired t, seed by seed"),
        ("Test of equivalence", "two one-sided t-tests (TOST) against the margin"),
        ("Power that “detectable” means", f"{power.POWER:.0%}"),
    ]


def _judged_by(study: Study) -> str:
    metrics = {name: wording.metric(task.metrics[0]) for name, task in study.tasks.items()}
    if len(set(metrics.values())) == 1:
        return next(iter(metrics.values()))
    return wording.listing(f"{metric} on {name}" for name, metric in metrics.items())


def _limits(metrics: Metrics) -> str:
    """What so few seeds cannot show; empty when the summary does not say."""
    design = metrics.summary.get("design", {})
    if not design.get("detectable_sd"):
        return ""
    seeds, floor = wording.count(int(design["seeds"]), "seed"), design["sign_flip_floor"]
    keys = ("detectable_sd", "detectable_sd_corrected", "tost_margin_sd", "tost_margin_sd_corrected")
    found, found_corrected, margin, margin_corrected = (wording.number(design[key], 2) for key in keys)
    return (
        f"With {seeds}, an exact sign-flip test cannot give a p-value below {floor:g}. "
        f"One paired t-test finds a difference of {found} standard deviations (of the paired differences) with "
        f"80% power, {found_corrected} after correction; equivalence needs a margin of {margin}, "
        f"{margin_corrected} after correction."
    )
