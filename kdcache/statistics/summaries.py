"""metrics/summary.json: what the study claims, with verdicts and the numbers behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdcache.results.writing import significant
from kdcache.statistics import power
from kdcache.statistics.against_teacher_free import teacher_claim, teacher_needed
from kdcache.statistics.evidence import gain
from kdcache.statistics.families import correct, level
from kdcache.statistics.interactions import ALL, interaction
from kdcache.statistics.significance import sign_flip_floor
from kdcache.statistics.verdicts import compare, points_table, summary_table
from kdcache.study import Study

FORMAT = 1
VERDICTS = ("better", "worse", "equivalent", "inconclusive")


def summary(trials: pd.DataFrame, study: Study, comparisons: pd.DataFrame | None = None) -> dict[str, Any]:
    """The content of metrics/summary.json (`comparisons`: what `compare` gave, else it is computed).

    Layout, format 1; numbers that could not be estimated are null; differences in points:

    - format: 1
    - study: seeds (list), trials {found, expected}, tasks {name: {metric, margin}}, students, regularizers
      (lists of names, the baseline included), comparisons (how many)
    - decided: baseline, alpha, confidence, power, margin {metric: points}, correction, family
    - design: what this many seeds can show, in sd of the matched differences: seeds, family_size (the
      largest), detectable_sd (one test at alpha), detectable_sd_corrected (at the family's strictest
      level), tost_margin_sd, tost_margin_sd_corrected (margin for which TOST shows no true difference with
      80% power), sign_flip_floor
    - verdicts: {pretrained | scratch: {better, worse, equivalent, inconclusive, negligible (of better and
      worse), comparisons}}, only the inits that the study has
    - claims: list of {id, question, verdict, sentence, ...numbers}; verdict: supported | contradicted |
      inconclusive; ids pretrained_within_margin, scratch_some_better, interaction, teacher_needed, each
      only where it can be asked
    - configurations: list of {task, student, init, regularizer, metric, n, mean, sd}, the baselines included
    - interaction: list, the rows of `kdcache.statistics.interactions` (its docstring names the columns)
    - teacher_needed: list, the rows of `kdcache.statistics.against_teacher_free`, KD against the teacher-free
    """
    compared = compare(trials, study) if comparisons is None else comparisons
    interactions = interaction(trials, study)
    taught = teacher_needed(trials, study)
    return {
        "format": FORMAT,
        "study": _study_facts(trials, study, len(compared)),
        "decided": _decided(study),
        "design": _design(study, compared),
        "verdicts": {init: _counts(rows) for init, rows in compared.groupby("init")},
        "claims": [
            *_claims(compared, interactions, study),
            *([teacher_claim(taught, study)] if len(taught) else []),
        ],
        "configurations": records(summary_table(trials, study)),
        "interaction": records(interactions),
        "teacher_needed": records(taught),
    }


def headline(summarized: dict[str, Any], compared: pd.DataFrame) -> dict[str, Any]:
    """metrics/verdicts.json: the study in a few flat values, to be read in a terminal and compared between runs.

    Each claim's verdict under its id, how many comparisons are better, worse, equivalent and inconclusive, and
    `gain`: per regularizer the mean difference from the baseline over its tasks and students, in points (null
    when nothing could be estimated).

    Args:
        summarized: what `summary` gave; compared: what `compare` gave.
    """
    gains = compared.groupby("regularizer", sort=False)["difference"].agg(lambda d: d.astype(float).mean())
    return {
        **{str(claim["id"]): claim["verdict"] for claim in summarized["claims"]},
        **{verdict: int((compared["verdict"] == verdict).sum()) for verdict in VERDICTS},
        "gain": {str(name): _plain(value) for name, value in gains.items()},
    }


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain JSON values, NaN as None; numbers as the files have them, so that sentences say the same."""
    rows = frame.astype(object).to_dict("records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return significant(value) if math.isfinite(value) else None
    return value


def _study_facts(trials: pd.DataFrame, study: Study, comparisons: int) -> dict[str, Any]:
    cells = points_table(trials, study)
    margins = study.comparison.margin
    return {
        "seeds": list(study.seeds),
        "trials": {"found": sum(map(len, cells.values())), "expected": len(cells) * len(study.seeds)},
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
    }


def _design(study: Study, compared: pd.DataFrame) -> dict[str, Any]:
    """What this number of seeds can show at all; see `summary`."""
    n, comparison = len(study.seeds), study.comparison
    size = int(compared["family_size"].max()) if len(compared) else 1
    strict = level(comparison.alpha, size, comparison.correction)
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
        "detectable_sd": power.detectable_difference(n, 1.0, comparison.alpha),
        "detectable_sd_corrected": power.detectable_difference(n, 1.0, strict),
        "tost_margin_sd": power.tost_detectable_margin(n, 1.0, comparison.alpha),
        "tost_margin_sd_corrected": power.tost_detectable_margin(n, 1.0, strict),
        "sign_flip_floor": sign_flip_floor(n),
    }


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    counts = {verdict: int((rows["verdict"] == verdict).sum()) for verdict in VERDICTS}
    return counts | {"negligible": int(rows["negligible"].sum()), "comparisons": len(rows)}


def _claims(compared: pd.DataFrame, interactions: pd.DataFrame, study: Study) -> list[dict[str, Any]]:
    pretrained = compared[compared["init"] == "pretrained"]
    scratch = compared[compared["init"] == "scratch"]
    pooled = interactions[interactions["scope"] == "pooled"]
    return [
        *([_within_margin(pretrained, study)] if len(pretrained) else []),
        *([_some_better(scratch, study)] if len(scratch) else []),
        *([_interaction_claim(interactions, study)] if len(pooled) else []),
    ]


def _corrected(p_values: Sequence[Any], study: Study) -> list[float]:
    """Over the whole claim, whatever the table's families; what could not be tested counts as p = 1."""
    filled = [1.0 if pd.isna(p) else float(p) for p in p_values]
    return [float(p) for p in correct(filled, study.comparison.correction)]


def _within_margin(rows: pd.DataFrame, study: Study) -> dict[str, Any]:
    """Pretrained: no regularizer changes the score by the margin or more.

    Supported when every comparison is within the margin. That is an intersection-union test: all the TOSTs
    must reject at alpha, so together they need no correction (Berger 1982); the corrected ones of the table
    are used all the same, so that the claim never says more than its rows. Contradicted when a
    minimum-effect test (H0: |difference| <= margin), corrected over the claim, rejects for any.
    """
    alpha = study.comparison.alpha
    within = rows["tost_p_corrected"].astype(float) <= alpha
    beyond = sum(p <= alpha for p in _corrected(rows["beyond_p"].tolist(), study))
    verdict = "contradicted" if beyond else "supported" if within.all() else "inconclusive"
    counts = {
        "comparisons": len(rows),
        "within_margin": int(within.sum()),
        "beyond_margin": int(beyond),
        "undecided": int(len(rows) - within.sum() - beyond),
    }
    sentence = (
        f"Of {len(rows)} comparisons with plain fine-tuning of pretrained students, "
        f"{counts['within_margin']} are shown to lie within {_margins(rows)}, {beyond} beyond it, "
        f"{counts['undecided']} are undecided; "
        f"{_verdict_counts(rows)}."
    )
    return {
        "id": "pretrained_within_margin",
        "question": "Pretrained students: does no regularizer change the score by the margin or more?",
        "verdict": verdict,
        "sentence": sentence,
        **counts,
        **_extremes(rows),
    }


def _some_better(rows: pd.DataFrame, study: Study) -> dict[str, Any]:
    """From scratch: some regularizer is better than the baseline, corrected over all scratch comparisons.

    Contradicted when every comparison is shown to be worse or within the margin.
    """
    alpha = study.comparison.alpha
    corrected = _corrected(rows["t_p"].tolist(), study)
    better = sum(
        p <= alpha and gain(metric, difference) > 0
        for p, metric, difference in zip(corrected, rows["metric"], rows["difference"], strict=True)
    )
    no_gain = (rows["verdict"] == "worse") | (rows["tost_p_corrected"].astype(float) <= alpha)
    verdict = "supported" if better else "contradicted" if no_gain.all() else "inconclusive"
    sentence = (
        f"Of {len(rows)} comparisons with plain fine-tuning of students from scratch, {better} "
        f"{'is' if better == 1 else 'are'} better when all are corrected together; "
        f"each in its own family: {_verdict_counts(rows)}."
    )
    return {
        "id": "scratch_some_better",
        "question": "Students from scratch: is some regularizer better than plain fine-tuning?",
        "verdict": verdict,
        "sentence": sentence,
        "comparisons": len(rows),
        "better": int(better),
        "smallest_p_corrected": min(corrected),
        **_extremes(rows),
    }


def _interaction_claim(interactions: pd.DataFrame, study: Study) -> dict[str, Any]:
    """The mean gain from scratch exceeds that when pretrained: the pool of pairs, or the only pair."""
    rows = interactions[interactions["regularizer"] == ALL]
    per_pair = rows[rows["scope"] == "pair"]
    row = records(per_pair if len(per_pair) == 1 else rows[rows["scope"] == "pooled"])[0]
    alone = records(
        per_pair[["task", "scratch", "pretrained", "interaction", "ci_low", "ci_high", "p", "verdict"]]
    )
    keys = ("gain_scratch", "gain_pretrained", "interaction", "ci_low", "ci_high", "p", "unit", "n")
    numbers = {key: row[key] for key in keys}
    return {
        "id": "interaction",
        "question": "Do the regularizers help more from scratch than when pretrained?",
        "verdict": row["verdict"],
        "sentence": _interaction_sentence(numbers, alone, study),
        **numbers,
        "pairs": alone,
        "per_regularizer_supported": _supported(interactions),
        "note": row["note"],
    }


def _interaction_sentence(row: dict[str, Any], pairs: list[dict[str, Any]], study: Study) -> str:
    if row["interaction"] is None:
        return "No seed has all the trials that the interaction needs."
    text = (
        f"Averaged over regularizers, the gain is {row['gain_scratch']:+.2f} points from scratch and "
        f"{row['gain_pretrained']:+.2f} pretrained: {row['interaction']:+.2f} points more from scratch"
    )
    if row["p"] is None:
        return f"{text} ({row['n']} {row['unit']}: no test possible)."
    interval = ""
    if row["ci_low"] is not None:
        share = round(100 * (1 - study.comparison.alpha))
        interval = f"{share}% interval {row['ci_low']:+.2f} to {row['ci_high']:+.2f}, "
    text += f" ({interval}one-sided p = {row['p']:.2g}, {_units(row, pairs)})"
    if len(pairs) == 1:
        return text + "."
    supported = sum(pair["verdict"] == "supported" for pair in pairs)
    return f"{text}; taken alone, {supported} of {len(pairs)} pairs support it."


def _units(row: dict[str, Any], pairs: list[dict[str, Any]]) -> str:
    """ "5 seeds", "6 pairs of students on 2 tasks", "3 pairs of students, all on one task"."""
    if row["unit"] != "pairs":
        return f"{row['n']} {row['unit']}"
    tasks = len({pair["task"] for pair in pairs})
    return f"{row['n']} pairs of students{', all on one task' if tasks == 1 else f' on {tasks} tasks'}"


def _supported(interactions: pd.DataFrame) -> list[dict[str, Any]]:
    """Which regularizers' interactions are supported, pair by pair."""
    rows = interactions[(interactions["scope"] == "pair") & (interactions["regularizer"] != ALL)]
    return records(rows[rows["verdict"] == "supported"][["task", "scratch", "pretrained", "regularizer"]])


def _margins(rows: pd.DataFrame) -> str:
    pairs = rows[["metric", "margin"]].drop_duplicates()
    return ", ".join(
        f"{margin:g} point{'s' * (margin != 1)} of {metric}"
        for metric, margin in pairs.itertuples(index=False)
    )


def _verdict_counts(rows: pd.DataFrame) -> str:
    counts = _counts(rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)


def _extremes(rows: pd.DataFrame) -> dict[str, Any]:
    """The smallest and the largest estimated difference, in points."""
    known = rows["difference"].dropna().astype(float)
    if known.empty:
        return {"smallest_difference": None, "largest_difference": None}
    return {"smallest_difference": float(known.min()), "largest_difference": float(known.max())}
