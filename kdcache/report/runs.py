"""Two runs of a study side by side: the parameters that differ, and what became of every configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdcache.statistics.evidence import Points, evidence_of, mean_sd, scored

KEYS = ("task", "student", "regularizer")
ABSENT = "absent"

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Run:
    """A study's parameters and results: the content of params.yaml, trials.csv and comparisons.csv."""

    name: str
    params: dict[str, Any]
    trials: pd.DataFrame
    comparisons: pd.DataFrame


@dataclass(frozen=True)
class Side:
    """A configuration in one run; scores in points. verdict: `baseline`, or `absent` when the run lacks it."""

    mean: float | None = None
    sd: float | None = None
    seeds: int = 0
    verdict: str = ABSENT


@dataclass(frozen=True)
class Change:
    """A configuration in both runs, and the second minus the first in points, matched by seed where it can be.

    same: the very same trials are behind both, by their identities. The interval stands alone, uncorrected.
    """

    task: str
    student: str
    regularizer: str
    metric: str
    a: Side
    b: Side
    change: float | None
    ci_low: float | None
    ci_high: float | None
    same: bool
    note: str


def different_params(a: Run, b: Run) -> list[tuple[str, str, str]]:
    """(path, value in a, value in b) of every parameter that differs, values as JSON, `absent` where there is none."""
    one, other = _flat(a.params), _flat(b.params)
    paths = dict.fromkeys([*one, *other])
    values = ((path, one.get(path, ABSENT), other.get(path, ABSENT)) for path in paths)
    return [(path, x, y) for path, x, y in values if x != y]


def _flat(params: Any, path: str = "") -> dict[str, str]:
    """{"distillers.kd.alpha": "0.5"}; a list is one value, and so is an empty group."""
    if not isinstance(params, dict) or not params:
        return {path: json.dumps(params, default=str)}
    found: dict[str, str] = {}
    for key, value in params.items():
        found |= _flat(value, f"{path}.{key}" if path else str(key))
    return found


def changes(a: Run, b: Run, confidence: float = 0.95) -> list[Change]:
    """Every configuration that one of the runs has, in the order of the first."""
    one, other = _configurations(a.trials), _configurations(b.trials)
    verdicts = [_verdicts(run) for run in (a, b)]
    metrics = [_metrics(run) for run in (a, b)]
    return [
        _change(
            key,
            (one.get(key), other.get(key)),
            verdicts,
            [known.get(key[:2], "") for known in metrics],
            confidence,
        )
        for key in dict.fromkeys([*one, *other])
    ]


def _configurations(trials: pd.DataFrame) -> dict[Key, pd.DataFrame]:
    return {(str(k[0]), str(k[1]), str(k[2])): rows for k, rows in trials.groupby(list(KEYS), sort=False)}


def _metrics(run: Run) -> dict[tuple[str, str], str]:
    """What each student is judged by on each task."""
    rows = run.comparisons.itertuples()
    return {(str(row.task), str(row.student)): str(row.metric) for row in rows}


def _verdicts(run: Run) -> dict[Key, str]:
    rows = run.comparisons.itertuples()
    return {(str(row.task), str(row.student), str(row.regularizer)): str(row.verdict) for row in rows}


def _change(
    key: Key,
    rows: tuple[pd.DataFrame | None, pd.DataFrame | None],
    verdicts: list[dict[Key, str]],
    metrics: list[str],
    confidence: float,
) -> Change:
    points = [_points(mine, metric) for mine, metric in zip(rows, metrics, strict=True)]
    a, b = (
        Side(*mean_sd(list(mine.values())), len(mine), known.get(key, "baseline")) if mine else Side()
        for mine, known in zip(points, verdicts, strict=True)
    )
    interval: tuple[float | None, ...] = (None, None, None)
    if all(points) and metrics[0] == metrics[1]:
        found, _ = evidence_of(points[1], points[0], None, confidence, [])
        interval = (found.difference, found.ci_low, found.ci_high)
    return Change(*key, metrics[1] or metrics[0], a, b, *interval, _same(rows), _note(*points, *metrics))


def _note(one: Points, other: Points, metric: str, other_metric: str) -> str:
    """What to know of a change; empty when every seed is matched and the metric the same."""
    if not one or not other:
        return ""
    if metric != other_metric:
        return f"judged by {metric} and by {other_metric}"
    if one == other:
        return "same scores"
    matched = len(one.keys() & other.keys())
    if matched == max(len(one), len(other)):
        return ""
    return f"{matched} matched seeds of {len(one)} and {len(other)}"


def _points(rows: pd.DataFrame | None, metric: str) -> Points:
    """seed -> score in points, failed trials left out."""
    if rows is None or metric not in rows:
        return {}
    return scored({int(row["seed"]): 100 * float(row[metric]) for _, row in rows.iterrows()}, "", [])


def _same(rows: tuple[pd.DataFrame | None, pd.DataFrame | None]) -> bool:
    """Whether both runs hold the same trials of a configuration."""
    if rows[0] is None or rows[1] is None:
        return False
    one, other = (dict(zip(mine["seed"], mine["identity"], strict=True)) for mine in rows)
    return one == other
