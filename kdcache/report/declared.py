"""In words: what params.yaml fixed before any result was seen, and what so few seeds cannot show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from kdcache.report.sections import WithoutCharts
from kdcache.results.reading import Metrics
from kdcache.statistics import power, wording
from kdcache.statistics.settling import design_of
from kdcache.statistics.significance import EXACT
from kdcache.study import Study
from kdcache.study.metrics import unit_of

CORRECTIONS = {
    "holm": "Holm",
    "bonferroni": "Bonferroni",
    "fdr_bh": "Benjamini–Hochberg",
    "none": "no correction",
}
# Up to so many seeds Student's t makes an interval more than twice as wide as many seeds would (4.3 against 1.96).
FEW_SEEDS = 3
FAMILIES = {
    "student": "the regularizers of one student on one task",
    "task": "all comparisons of one task",
    "study": "all comparisons of the study",
}


@dataclass(frozen=True)
class DeclaredSection(WithoutCharts):
    """The decisions: name and value."""

    template: ClassVar[str] = "sections/decided.html.j2"
    decided: list[tuple[str, str]]


@dataclass(frozen=True)
class GlossarySection(WithoutCharts):
    """How to read the page; the words are in the template."""

    template: ClassVar[str] = "sections/glossary.html.j2"


def make_section(study: Study) -> DeclaredSection:
    """Everything that was decided beforehand, and what kdcache fixes for every study."""
    comparison = study.comparison
    margins = (
        f"± {wording.amount(size, unit_of(name))} of {wording.metric(name)}"
        for name, size in comparison.margin.items()
    )
    return DeclaredSection(
        [
            ("Baseline", comparison.baseline),
            ("Judged by", _judged_by(study)),
            ("Level (alpha)", f"{comparison.alpha:g}, so intervals are {confidence(study)}"),
            ("Equivalence margin", wording.listing(margins)),
            ("ROPE (across tasks)", "the margin of each task"),
            ("Correction", CORRECTIONS[comparison.correction]),
            ("Corrected together in the tables", FAMILIES[comparison.family]),
            ("Corrected together in a claim", "all comparisons that the claim is about"),
            ("Seeds", ", ".join(str(seed) for seed in study.seeds)),
            *_looks(study),
            ("Test of a difference", "two-sided paired t, seed by seed"),
            ("Test of equivalence", "two one-sided t-tests (TOST) against the margin"),
            ("Power that “detectable” means", f"{power.POWER:.0%}"),
        ]
    )


def _looks(study: Study) -> Iterator[tuple[str, str]]:
    comparison = study.comparison
    if comparison.looks is None:
        return
    yield "Looks", design_in_words(study)
    given_up = "never"
    if comparison.stop_hopeless:
        given_up = f"when the last look would decide with a chance below {100 * comparison.stop_hopeless:g}%"
    yield "A comparison is given up", given_up
    claims = "a comparison, or a claim about it, is open"
    yield "More seeds while", claims if comparison.settle == "claims" else "a comparison is open"


def design_in_words(study: Study) -> str:
    """Such as "after 5, 10, 20 and 40 seeds, with 12.5%, 12.5%, 25% and 50% of alpha"."""
    shares = wording.listing(f"{100 * share:.3g}%" for share in design_of(study).shares)
    return f"after {wording.listing(map(str, study.looks))} seeds, with {shares} of alpha"


def _judged_by(study: Study) -> str:
    metrics = {name: wording.metric(task.metrics[0]) for name, task in study.tasks.items()}
    if len(set(metrics.values())) == 1:
        return next(iter(metrics.values()))
    return wording.listing(f"{metric} on {name}" for name, metric in metrics.items())


def confidence(study: Study) -> str:
    """The intervals' confidence: "95%"."""
    return f"{100 * (1 - study.comparison.alpha):g}%"


def certainty(metrics: Metrics, study: Study) -> str:
    """How far the first screen can be relied on, in words."""
    seeds = f"over {wording.count(len(study.seeds), 'seed')}"
    if len(study.looks) > 1:
        seeds = f"that hold at every look, {wording.listing(map(str, study.looks))} seeds"
    return (
        f"Brackets are {confidence(study)} intervals {seeds}. "
        f"A claim stands only if its test, corrected ({CORRECTIONS[study.comparison.correction]}), allows it; "
        f"inconclusive is not “no difference”.{_say_little(metrics, study)}{_open(metrics, study)}"
    )


def _say_little(metrics: Metrics, study: Study) -> str:
    """A warning about intervals of few seeds; empty with more seeds."""
    rows = metrics.comparisons.dropna(subset=["ci_low", "ci_high"])
    rows = rows[rows["seeds"] <= FEW_SEEDS]
    if rows.empty:
        return ""
    seeds = wording.count(int(rows["seeds"].min()), "seed")
    widest = wording.size(float((rows["ci_high"] - rows["ci_low"]).max()), study.unit)
    return (
        f" With {seeds} an interval says little: the widest spans {widest} {study.unit.plural}. "
        "Take 5 seeds or more."
    )


def open_comparisons(metrics: Metrics, study: Study) -> int:
    """How many comparisons of a study with looks go on with more seeds."""
    if len(study.looks) < 2:
        return 0
    rows = metrics.comparisons
    judged = rows["look"].notna() | (rows["outcome"] != "")  # older files say neither
    return int((judged & (rows["stopped_by"] == "")).sum())


def _open(metrics: Metrics, study: Study) -> str:
    """What is left to do in a study with looks."""
    still_open = open_comparisons(metrics, study)
    goes = "comparison is open" if still_open == 1 else "comparisons are open"
    return f" {still_open} {goes}: “kdcache settle” goes on with more seeds." if still_open else ""


def limits(metrics: Metrics) -> str:
    """What so few seeds cannot show; empty if summary.json does not say."""
    design = metrics.summary.get("design", {})
    if not design.get("detectable_sd"):
        return ""
    seeds, floor = (
        wording.count(int(design["seeds"]), "seed"),
        wording.exact_p_value(design["sign_flip_floor"]),
    )
    kind = "an exact" if design["seeds"] <= EXACT else "a randomly drawn"
    keys = ("detectable_sd", "detectable_sd_corrected", "tost_margin_sd", "tost_margin_sd_corrected")
    alone, corrected, margin, margin_corrected = (wording.number(design[key], 2) for key in keys)
    return (
        f"With {seeds}, {kind} sign-flip test cannot give a p-value below {floor}. "
        f"One paired t-test finds a difference of {alone} standard deviations (of the paired differences) with "
        f"80% power, {corrected} after correction; equivalence needs a margin of {margin}, "
        f"{margin_corrected} after correction."
    )


def scope(metrics: Metrics, study: Study) -> str:
    """The study's size: "4 regularizers, 3 students, 2 tasks, 5 seeds, 75 trials"."""
    trials = metrics.trials
    compared = trials["regularizer"][trials["regularizer"] != study.comparison.baseline]
    parts = (
        wording.count(compared.nunique(), "regularizer"),
        wording.count(trials["student"].nunique(), "student"),
        wording.count(trials["task"].nunique(), "task"),
        wording.count(trials["seed"].nunique(), "seed"),
        wording.count(len(trials), "trial"),
    )
    return ", ".join(parts)
