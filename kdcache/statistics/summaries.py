"""metrics/summary.json: the study's claims, with verdicts and the numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from kdcache.results.writing import as_written, settle
from kdcache.statistics import power
from kdcache.statistics.against_teacher_free import compare_with_teacher_free
from kdcache.statistics.claim_words import ClaimRows, put_into_words
from kdcache.statistics.claims import judge_claims
from kdcache.statistics.interactions import compare_inits
from kdcache.statistics.judging import VERDICTS
from kdcache.statistics.learned import without_unlearned_cells, without_unlearned_pairs
from kdcache.statistics.settling import design_of
from kdcache.statistics.significance import sign_flip_floor
from kdcache.statistics.verdicts import compare, points_table, tabulate_scores
from kdcache.study import Study

FORMAT = 1


def summarize(
    trials: pd.DataFrame,
    study: Study,
    comparisons: pd.DataFrame | None = None,
    majorities: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The content of metrics/summary.json. `comparisons` is the result of `compare`; without it, it is computed here.

    `majorities` is as for `learned.without_unlearned`; without it, all models count as having learned something.

    Layout, format 1 (numbers that could not be estimated are null; differences are in points):

    - format: 1
    - study: seeds (list), looks (numbers of seeds; one number if all are judged at once), trials {found, expected},
      tasks {name: {metric, margin}}, students, regularizers (lists of names, the baseline included), comparisons
      (number)
    - decided: baseline, alpha, confidence, power, margin {metric: points}, correction, family; with looks also shares
      (of alpha, one a look), boundaries, stop_hopeless, settle
    - design: what this many seeds can show, in sd of the matched differences: seeds, family_size (the largest),
      detectable_sd (one test at alpha), detectable_sd_corrected (at the family's strictest level), tost_margin_sd,
      tost_margin_sd_corrected (the margin with which TOST has 80% power if there is no true difference),
      sign_flip_floor
    - verdicts: {pretrained | scratch: {better, worse, equivalent, inconclusive, negligible (among better and worse),
      comparisons}}, only for the inits that the study has
    - claims: list of {id, question, answer, tested, verdict, sentence, beside, ...numbers}; tested: the claim that the
      verdict (supported | contradicted | inconclusive) is about; beside: a note beside the sentence; ids
      pretrained_within_margin, scratch_some_better, interaction, teacher_needed, each only if the study can test it
    - configurations: list of {task, student, init, regularizer, metric, n, mean, sd}, the baselines included
    - interaction: list, the rows of `kdcache.statistics.interactions` (its docstring names the columns)
    - teacher_needed: list, the rows of `kdcache.statistics.against_teacher_free`: KD against teacher-free methods

    Stage compare adds `storage`, the rows of `kdcache.statistics.storage`, if language models learn from smaller caches
    and from a full one.
    """
    compared = compare(trials, study) if comparisons is None else comparisons
    known = majorities or {}
    interactions = without_unlearned_pairs(compare_inits(trials, study), trials, study, known)
    taught = without_unlearned_cells(compare_with_teacher_free(trials, study), trials, study, known)
    facts = {
        "format": FORMAT,
        "study": _study_facts(trials, study, len(compared)),
        "decided": _decided(study),
        "design": _design(study, compared),
        "verdicts": {init: _counts(of_init) for init, of_init in compared.groupby("init")},
    }
    tables = {
        "configurations": as_written(tabulate_scores(trials, study)),
        "interaction": as_written(interactions),
        "teacher_needed": as_written(taught),
    }
    rows = ClaimRows.of_summary(pd.DataFrame(as_written(compared)), facts | tables)
    claims = judge_claims(compared, interactions, taught, study)
    return {**facts, "claims": [_with_words(claim, rows) for claim in claims], **tables}


def _with_words(claim: dict[str, Any], rows: ClaimRows) -> dict[str, Any]:
    words = put_into_words(claim, rows)
    return {
        "id": claim["id"],
        "question": words.question,
        "answer": words.answer,
        "tested": words.tested,
        "verdict": claim["verdict"],
        "sentence": words.sentence,
        "beside": words.note,
        **claim,
    }


def headline(summarized: dict[str, Any], compared: pd.DataFrame) -> dict[str, Any]:
    """metrics/verdicts.json: the study in a few flat values, to read in a terminal and to compare between runs.

    It has each claim's verdict under the claim's id; how many comparisons are better, worse, equivalent and
    inconclusive; and `gain`: for each regularizer the mean difference from the baseline over its tasks and students, in
    points (null if nothing could be estimated).

    Args:
        summarized: the result of `summarize`; compared: the result of `compare`.
    """
    gains = compared.groupby("regularizer", sort=False)["difference"].agg(lambda d: d.astype(float).mean())
    return {
        **{str(claim["id"]): claim["verdict"] for claim in summarized["claims"]},
        **{verdict: int((compared["verdict"] == verdict).sum()) for verdict in VERDICTS},
        "gain": {str(name): _gain(value) for name, value in gains.items()},
    }


def _gain(points: float) -> float | None:
    return None if pd.isna(points) else settle(float(points), 100.0)


def _study_facts(trials: pd.DataFrame, study: Study, comparisons: int) -> dict[str, Any]:
    cells = points_table(trials, study)
    margins = study.comparison.margin
    return {
        "seeds": list(study.seeds),
        "looks": study.looks,
        "trials": {"found": sum(map(len, cells.values())), "expected": len(list(study.all_trials()))},
        "tasks": {
            name: {"metric": task.metrics[0], "margin": margins[task.metrics[0]]}
            for name, task in study.tasks.items()
        },
        "students": list(study.students),
        "regularizers": list(study.methods()),
        "comparisons": comparisons,
    }


def _decided(study: Study) -> dict[str, Any]:
    comparison = study.comparison
    return {
        "baseline": comparison.baseline,
        "alpha": comparison.alpha,
        "confidence": 1 - comparison.alpha,
        "power": power.POWER,
        "margin": dict(comparison.margin),
        "correction": comparison.correction,
        "family": comparison.family,
        **(_of_looks(study) if comparison.looks else {}),
    }


def _of_looks(study: Study) -> dict[str, Any]:
    comparison = study.comparison
    return {
        "shares": list(design_of(study).shares),
        "boundaries": comparison.boundaries,
        "stop_hopeless": comparison.stop_hopeless,
        "settle": comparison.settle,
    }


def _design(study: Study, compared: pd.DataFrame) -> dict[str, Any]:
    """What all seeds together, at the last look, can show; see `summarize`."""
    n, design, last = len(study.seeds), design_of(study), len(study.looks)
    size = int(compared["family_size"].max()) if len(compared) else 1
    two_sided, one_sided = (
        [design.nominal(last, at, sides) for at in (design.alpha, design.strictest(size))] for sides in (2, 1)
    )
    facts: dict[str, Any] = {"seeds": n, "family_size": size}
    if n < 2:
        return facts | dict.fromkeys(
            (
                "detectable_sd",
                "detectable_sd_corrected",
                "tost_margin_sd",
                "tost_margin_sd_corrected",
                "sign_flip_floor",
            )
        )
    return facts | {
        "detectable_sd": power.detectable_difference(n, 1.0, two_sided[0]),
        "detectable_sd_corrected": power.detectable_difference(n, 1.0, two_sided[1]),
        "tost_margin_sd": power.tost_detectable_margin(n, 1.0, one_sided[0]),
        "tost_margin_sd_corrected": power.tost_detectable_margin(n, 1.0, one_sided[1]),
        "sign_flip_floor": sign_flip_floor(n),
    }


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    counts = {verdict: int((rows["verdict"] == verdict).sum()) for verdict in VERDICTS}
    return counts | {"negligible": int(rows["negligible"].sum()), "comparisons": len(rows)}
