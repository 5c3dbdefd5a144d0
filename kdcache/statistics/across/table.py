"""metrics/across.csv: what each regularizer does over several tasks together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from kdcache.results.schema import AcrossRow
from kdcache.results.writing import tabulate
from kdcache.statistics import significance
from kdcache.statistics.across.bootstrap import interquartile_mean, probability_of_improvement
from kdcache.statistics.across.groups import Group, groups
from kdcache.statistics.across.mixed import Effect, mixed_model
from kdcache.statistics.across.permutation import stratified_permutation
from kdcache.statistics.across.ranks import critical_difference, friedman, mean_ranks
from kdcache.statistics.across.signed_rank import bayesian_signed_rank, wilcoxon
from kdcache.statistics.families import correct_by_family
from kdcache.study import Study

ONE_TASK = "one task: nothing across tasks"
BAYES_TASKS = 5  # with fewer tasks the posterior is overconfident, whatever the few differences show


def compare_across_tasks(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row per group and regularizer, the baseline included, in the layout of across.csv.

    A group is a student over its tasks (scope `student`) or all students of an init, averaged within each task and seed
    (scope `init`). Columns are in the metric's unit unless said otherwise; differences are gains, iqm is a score. A
    number is blank if there is nothing to estimate (always with one task), and `note` says why:

    - scope, group, init, regularizer, metric; tasks: number of tasks with matched seeds; trials: number of matched
      seeds
    - difference: mean over tasks of the mean paired difference from the baseline; ci_low, ci_high: its t
      interval over tasks, 1 - alpha
    - wilcoxon_p: over the tasks' mean differences; wilcoxon_floor: the smallest value that it can have
    - permutation_p: sign flips within tasks; permutation_floor: its smallest value; *_p_corrected: over the
      regularizers of a group, or of all groups of the scope if `comparison.family` is wider than a student
    - mixed_*: the mixed model's effect, interval and p, as a cross-check, so not corrected
    - improvement: probability that a random run beats one of the baseline, 0..1, with its bootstrap interval
    - bayes_worse, bayes_within, bayes_better: posterior probabilities, with the margin as ROPE; blank below
      `BAYES_TASKS` tasks
    - over the tasks and seeds that all methods have: ranked_tasks, mean_rank, iqm with its bootstrap interval;
      friedman_p and critical_difference, which are the same on all rows of a group

    Raises:
        ComparisonError: as `kdcache.statistics.compare`.
    """
    rows = [row for group in groups(trials, study) for row in _rows(group, study)]
    keys = [_key(row, study) for row in rows]
    wilcoxon_p = _corrected([row.wilcoxon_p for row in rows], keys, study)
    permutation_p = _corrected([row.permutation_p for row in rows], keys, study)
    return tabulate(
        AcrossRow,
        (
            replace(
                row,
                wilcoxon_p_corrected=wilcoxon_p[place],
                permutation_p_corrected=permutation_p[place],
                family_size=keys.count(key) if key else None,
            )
            for place, (row, key) in enumerate(zip(rows, keys, strict=True))
        ),
    )


def _key(row: AcrossRow, study: Study) -> tuple[str, ...] | None:
    """Rows with equal keys are corrected together; the baseline is in no family."""
    if row.regularizer == study.comparison.baseline:
        return None
    return (row.scope, row.group) if study.comparison.family == "student" else (row.scope,)


def _corrected(
    p_values: Sequence[float | None], keys: list[tuple[str, ...] | None], study: Study
) -> list[float | None]:
    compared = [row for row, key in enumerate(keys) if key]
    families: list[Hashable] = [keys[row] for row in compared]
    method = study.comparison.correction
    corrected = correct_by_family([p_values[row] for row in compared], families, method)
    return [dict(zip(compared, corrected, strict=True)).get(row) for row in range(len(keys))]


def _rows(group: Group, study: Study) -> Iterator[AcrossRow]:
    baseline, confidence = study.comparison.baseline, 1 - study.comparison.alpha
    several = len(group.scores) > 1
    shared, own = _ranking(group, study) if several else ({}, {})
    effects, note = mixed_model(group.frame(), list(study.methods()), baseline, confidence)
    for method in study.methods():
        notes = [_metrics_note(group, study)]
        row = _heading(group, method, study) | shared | own.get(method, {})
        if method != baseline:
            d = group.differences(method, baseline)
            row |= {"tasks": len(d), "trials": sum(map(len, d.values()))}
            if several:
                row |= _compare_method(group, method, d, study, notes)
                notes += [note]
            row |= _mixed(effects.get(method))
        yield AcrossRow(**row, note="; ".join(filter(None, notes)) if several else ONE_TASK)


def _mixed(effect: Effect | None) -> dict[str, Any]:
    if effect is None:
        return {}
    return {
        "mixed_difference": effect.difference,
        "mixed_ci_low": effect.ci_low,
        "mixed_ci_high": effect.ci_high,
        "mixed_p": effect.p,
    }


def _heading(group: Group, method: str, study: Study) -> dict[str, Any]:
    scores = [scores[method] for scores in group.scores.values()]
    return {
        "scope": group.scope,
        "group": group.name,
        "init": group.init,
        "regularizer": method,
        "metric": "/".join(_metrics(group, study)),
        "tasks": sum(map(bool, scores)),
        "trials": sum(map(len, scores)),
    }


def _metrics(group: Group, study: Study) -> list[str]:
    return sorted({study.tasks[task].metrics[0] for task in group.scores})


def _metrics_note(group: Group, study: Study) -> str:
    return "points of different metrics" if len(_metrics(group, study)) > 1 else ""


def _compare_method(
    group: Group, method: str, d: dict[str, list[float]], study: Study, notes: list[str]
) -> dict[str, Any]:
    """The columns that come from the differences from the baseline; they need two or more tasks."""
    if len(d) < 2:
        notes.append(f"matched seeds on {len(d)} of {len(group.scores)} tasks: two are needed")
        return {}
    if len(d) < len(group.scores):
        notes.append(f"matched seeds on {len(d)} of {len(group.scores)} tasks")
    means = [float(np.mean(values)) for values in d.values()]
    return {
        **_mean_difference(means, 1 - study.comparison.alpha),
        "wilcoxon_p": wilcoxon(means),
        "wilcoxon_floor": significance.sign_flip_floor(len(d)),
        "permutation_p": stratified_permutation(list(d.values())),
        "permutation_floor": significance.sign_flip_floor(sum(map(len, d.values()))),
        **_improvement(group, method, list(d), study),
        **_bayes(dict(zip(d, means, strict=True)), study),
    }


def _mean_difference(means: list[float], confidence: float) -> dict[str, Any]:
    interval = significance.mean_interval(significance.differences(means, [0.0] * len(means)), confidence)
    return {"difference": interval.mean, "ci_low": interval.ci_low, "ci_high": interval.ci_high}


def _improvement(group: Group, method: str, tasks: list[str], study: Study) -> dict[str, Any]:
    sides = (method, study.comparison.baseline)
    pairs = [[list(group.scores[task][side].values()) for side in sides] for task in tasks]
    chance = probability_of_improvement([(x, y) for x, y in pairs], 1 - study.comparison.alpha)
    return {
        "improvement": chance.value,
        "improvement_ci_low": chance.ci_low,
        "improvement_ci_high": chance.ci_high,
    }


def _bayes(means: dict[str, float], study: Study) -> dict[str, Any]:
    """The Bayesian columns. Differences are divided by their task's margin, so that all tasks share one ROPE of 1."""
    margins = {task: study.comparison.margin[study.tasks[task].metrics[0]] for task in means}
    scaled = [mean / margins[task] for task, mean in means.items()]
    posterior = bayesian_signed_rank(scaled, 1.0) if len(scaled) >= BAYES_TASKS else None
    if posterior is None:
        return {}
    return {
        "bayes_worse": posterior.worse,
        "bayes_within": posterior.within,
        "bayes_better": posterior.better,
    }


def _ranking(group: Group, study: Study) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The columns that all rows of the group share, and each method's rank and interquartile mean."""
    common, methods = group.common(), list(study.methods())
    if len(common) < 2 or len(methods) < 2:
        return {"ranked_tasks": len(common)}, {}
    means = [[float(np.mean(scores[method])) for method in methods] for scores in common.values()]
    test = friedman(means)
    shared = {
        "ranked_tasks": len(common),
        "friedman_p": test.p if test else None,
        "critical_difference": critical_difference(len(methods), len(common), study.comparison.alpha),
    }
    own = {}
    for method, rank in zip(methods, mean_ranks(means), strict=True):
        iqm = interquartile_mean([scores[method] for scores in common.values()], 1 - study.comparison.alpha)
        ends = sorted(study.unit.shown(end) for end in (iqm.ci_low, iqm.ci_high) if end is not None)
        low, high = ends or (None, None)
        own[method] = {
            "mean_rank": float(rank),
            "iqm": study.unit.shown(iqm.value),
            "iqm_ci_low": low,
            "iqm_ci_high": high,
        }
    return shared, own
