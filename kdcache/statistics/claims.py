"""A study's claims: each claim's verdict, and the numbers behind it. `claim_words.py` puts them into words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from kdcache.results.writing import as_written
from kdcache.statistics import power
from kdcache.statistics.against_teacher_free import methods
from kdcache.statistics.families import correct
from kdcache.statistics.interactions import ALL
from kdcache.statistics.judging import VERDICTS
from kdcache.statistics.learned import NOTHING_LEARNED
from kdcache.statistics.settling import design_of
from kdcache.study import Study


def judge_claims(
    compared: pd.DataFrame, interactions: pd.DataFrame, against_teacher_free: pd.DataFrame, study: Study
) -> Iterator[dict[str, Any]]:
    """id, verdict (supported, contradicted or inconclusive) and numbers of each claim that the study can test.

    Args:
        compared, interactions, against_teacher_free: the tables of `compare`, `compare_inits` and
            `compare_with_teacher_free`.
    """
    pretrained = compared[compared["init"] == "pretrained"]
    scratch = compared[compared["init"] == "scratch"]
    if len(pretrained):
        yield within_margin(pretrained, study)
    if len(scratch):
        yield some_better(scratch, study)
    if (interactions["scope"] == "pooled").any():
        yield interaction(interactions, study)
    if len(against_teacher_free):
        yield teacher_needed(against_teacher_free, study)


def within_margin(rows: pd.DataFrame, study: Study) -> dict[str, Any]:
    """Pretrained: no regularizer changes the score by the margin or more.

    Supported if every comparison's equivalence test rejects at alpha, without any correction. If the claim is false,
    some true difference is the margin or more. The test of that difference rejects with a probability of at most alpha,
    so all tests together do too. (The table's rows are corrected, so the claim can be supported although not every row
    says equivalent.) A comparison of models that learned nothing supports nothing. Contradicted if a minimum-effect
    test (H0: |difference| <= margin), corrected over the claim, rejects for any comparison.
    """
    alpha = study.comparison.alpha
    learned = rows["outcome"] != NOTHING_LEARNED
    every = (learned & (rows["tost_q"].astype(float) <= alpha)).all()
    within = learned & (np.full(len(rows), every) | (rows["tost_p_corrected"].astype(float) <= alpha))
    beyond = sum(p <= alpha for p in _corrected(_beyond_q(rows, study), study))
    return {
        "id": "pretrained_within_margin",
        "verdict": "contradicted" if beyond else "supported" if every else "inconclusive",
        "comparisons": len(rows),
        "within_margin": int(within.sum()),
        "beyond_margin": int(beyond),
        "undecided": int(len(rows) - within.sum() - beyond),
        **_extremes(rows),
    }


def some_better(rows: pd.DataFrame, study: Study) -> dict[str, Any]:
    """From scratch: some regularizer is better than the baseline, corrected over all scratch comparisons.

    Contradicted if every comparison is shown to be worse or within the margin, among models that learned something, and
    none is better in the table, where its family is corrected alone.
    """
    alpha = study.comparison.alpha
    corrected = _corrected(rows["t_q"], study)
    better = sum(
        p <= alpha and difference > 0 for p, difference in zip(corrected, rows["difference"], strict=True)
    )
    learned = rows["outcome"] != NOTHING_LEARNED
    within = learned & (rows["tost_p_corrected"].astype(float) <= alpha)
    no_gain = (rows["verdict"] != "better") & ((rows["verdict"] == "worse") | within)
    return {
        "id": "scratch_some_better",
        "verdict": "supported" if better else "contradicted" if no_gain.all() else "inconclusive",
        "comparisons": len(rows),
        "better": int(better),
        "smallest_p_corrected": min(corrected),
        **_extremes(rows),
    }


def interaction(interactions: pd.DataFrame, study: Study) -> dict[str, Any]:
    """The mean gain from scratch exceeds the mean gain when pretrained: over the pool of pairs, or the only pair.

    Contradicted if only this is shown: if it exceeds it, then by less than the margin. Supported and negligible if both
    are shown.

    `seeds_to_settle`: with how many seeds the only pair would show either, if the estimate were true (power 0.8).
    `pairs_to_settle`: the same for a pool, whose values are pairs of students. `seeds_declared`: the most seeds that
    the study can have.
    """
    rows = interactions[interactions["regularizer"] == ALL]
    per_pair = rows[rows["scope"] == "pair"]
    row = as_written(per_pair if len(per_pair) == 1 else rows[rows["scope"] == "pooled"])[0]
    to_settle = _to_settle(row, study.comparison.alpha)
    shown = ["task", "scratch", "pretrained", "interaction", "ci_low", "ci_high", "p", "below_p", "verdict"]
    numbers = (
        "gain_scratch",
        "gain_pretrained",
        "interaction",
        "ci_low",
        "ci_high",
        "p",
        "p_corrected",
        "margin",
        "below_p",
        "below_p_corrected",
        "unit",
        "n",
    )
    return {
        "id": "interaction",
        "verdict": row["verdict"],
        "negligible": row["negligible"],
        **{name: row[name] for name in numbers},
        "look": row["look"],
        **{f"{unit}_to_settle": to_settle if row["unit"] == unit else None for unit in ("seeds", "pairs")},
        "seeds_declared": len(study.seeds),
        "pairs": as_written(per_pair[shown]),
        "per_regularizer_supported": _supported(interactions),
        "note": row["note"],
    }


def _to_settle(row: Mapping[str, Any], alpha: float) -> int | None:
    """How many values would answer it, with yes or no; None where it takes more than `power.MOST_SEEDS`."""
    if row["sd"] is None:
        return None
    ways = [distance for distance in (row["interaction"], row["margin"] - row["interaction"]) if distance > 0]
    # one-sided at alpha is two-sided at 2 * alpha: the other tail has little power
    return power.seeds_to_find(max(ways), power.Spread(row["sd"]), 2 * alpha)


def _supported(interactions: pd.DataFrame) -> list[dict[str, Any]]:
    """The regularizers whose interaction is supported, pair by pair."""
    rows = interactions[(interactions["scope"] == "pair") & (interactions["regularizer"] != ALL)]
    return as_written(rows[rows["verdict"] == "supported"][["task", "scratch", "pretrained", "regularizer"]])


def teacher_needed(rows: pd.DataFrame, study: Study) -> dict[str, Any]:
    """Distillation from a teacher beats, on average, the regularizers that need none.

    Supported if a KD, pooled over all tasks and students, is better than the mean of the teacher-free regularizers;
    contradicted if every KD is worse than that mean, or equivalent to it; else inconclusive.
    """
    pooled = rows[(rows["scope"] == "pooled") & (rows["init"] == ALL)]
    cells = rows[rows["scope"] == "cell"]
    no_gain = pooled["verdict"].isin(["worse", "equivalent"])
    better = (pooled["verdict"] == "better").any()
    return {
        "id": "teacher_needed",
        "verdict": "supported" if better else "contradicted" if no_gain.all() else "inconclusive",
        "comparisons": len(cells),
        **{word: int((cells["verdict"] == word).sum()) for word in VERDICTS},
        "look": int(pooled["look"].min()),
        "teacher_free": methods(study)[1],
        **_extremes(cells),
    }


def _beyond_q(rows: pd.DataFrame, study: Study) -> list[float | None]:
    """Each row's beyond_p, divided by its look's share of alpha."""
    shares = design_of(study).shares
    pairs = zip(rows["beyond_p"], rows["look"], strict=True)
    return [None if pd.isna(p) or pd.isna(look) else min(1.0, p / shares[int(look) - 1]) for p, look in pairs]


def _corrected(q: Iterable[Any], study: Study) -> list[float]:
    """q corrected over the whole claim, whatever the table's families; a missing q counts as 1."""
    filled = [1.0 if pd.isna(value) else float(value) for value in q]
    return [float(p) for p in correct(filled, study.comparison.correction)]


def _extremes(rows: pd.DataFrame) -> dict[str, Any]:
    """The smallest and the largest estimated difference, in points."""
    known = rows["difference"].dropna().astype(float)
    if known.empty:
        return {"smallest_difference": None, "largest_difference": None}
    return {"smallest_difference": float(known.min()), "largest_difference": float(known.max())}
