"""Compare two runs of a study: the parameters that differ, and every configuration's scores and verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from kdcache.statistics.evidence import Points, evidence_of, mean_sd, scored
from kdcache.study.metrics import unit_of

KEYS = ("task", "student", "regularizer")
ABSENT = "absent"
Key = tuple[str, str, str]


@dataclass(frozen=True)
class StudyRun:
    """A study's parameters and results: the content of params.yaml, trials.csv and comparisons.csv."""

    name: str
    params: dict[str, Any]
    trials: pd.DataFrame
    comparisons: pd.DataFrame


@dataclass(frozen=True)
class Side:
    """A configuration in one run, in the metric's unit. verdict is also `baseline`, or `absent` if the run lacks it."""

    mean: float | None = None
    sd: float | None = None
    seeds: int = 0
    verdict: str = ABSENT


@dataclass(frozen=True)
class Change:
    """A configuration in both runs, and how much better the second is, matched by seed if possible.

    same: both runs have the very same trials, by their identities. The interval is not corrected.
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


def different_params(a: StudyRun, b: StudyRun) -> list[tuple[str, str, str]]:
    """(path, value in a, value in b) of every parameter that differs; values are JSON, or `absent`."""
    params_a, params_b = _flat(a.params), _flat(b.params)
    paths = dict.fromkeys([*params_a, *params_b])
    values = ((path, params_a.get(path, ABSENT), params_b.get(path, ABSENT)) for path in paths)
    return [(path, x, y) for path, x, y in values if x != y]


def _flat(params: Any, path: str = "") -> dict[str, str]:
    """Parameters by path, such as {"distillers.kd.alpha": "0.5"}; a list or an empty group is one value."""
    if not isinstance(params, dict) or not params:
        return {path: json.dumps(params, default=str)}
    flat: dict[str, str] = {}
    for key, value in params.items():
        flat |= _flat(value, f"{path}.{key}" if path else str(key))
    return flat


def changes(a: StudyRun, b: StudyRun, confidence: float = 0.95) -> list[Change]:
    """Every configuration of either run, in the order of the first run."""
    before, after = _configurations(a), _configurations(b)
    absent = Configuration()
    return [
        _change(key, before.get(key, absent), after.get(key, absent), confidence)
        for key in dict.fromkeys([*before, *after])
    ]


@dataclass(frozen=True)
class Configuration:
    """The trials of a configuration in one run: seed -> score (see `evidence.Points`), and seed -> identity."""

    metric: str = ""
    verdict: str = ABSENT
    points: Points = field(default_factory=dict)
    identities: dict[int, str] = field(default_factory=dict)

    @property
    def side(self) -> Side:
        mean, sd = mean_sd(list(self.points.values()))
        shown = None if mean is None else unit_of(self.metric).shown(mean)
        return Side(shown, sd, len(self.points), self.verdict)


def _configurations(run: StudyRun) -> dict[Key, Configuration]:
    rows: Iterable[Any] = run.comparisons.itertuples(index=False)
    compared = {(row.task, row.student, row.regularizer): row for row in rows}
    metrics = {key[:2]: str(row.metric) for key, row in compared.items()}
    configurations = {}
    for (task, student, regularizer), trials in run.trials.groupby(list(KEYS), sort=False):
        key = (str(task), str(student), str(regularizer))
        metric = metrics.get(key[:2]) or _declared_metric(run.params, key[0])
        identities = dict(zip(trials["seed"], trials["identity"], strict=True))
        verdict = str(compared[key].verdict) if key in compared else "baseline"
        configurations[key] = Configuration(metric, verdict, _points(trials, metric), identities)
    return configurations


def _declared_metric(params: dict[str, Any], task: str) -> str:
    """The metric by which params.yaml has a task judged, its first; "" if the file does not say it."""
    tasks = params.get("tasks")
    declared = tasks.get(task) if isinstance(tasks, dict) else None
    metrics = declared.get("metrics") if isinstance(declared, dict) else None
    return str(metrics[0]) if isinstance(metrics, list) and metrics else ""


def _points(rows: pd.DataFrame, metric: str) -> Points:
    """seed -> score, see `evidence.Points`; failed trials left out."""
    unit = unit_of(metric)
    scores = zip(rows["seed"], rows[metric], strict=True) if metric in rows else ()
    return scored({int(seed): unit.worth(float(score)) for seed, score in scores}, "", [])


def _change(key: Key, a: Configuration, b: Configuration, confidence: float) -> Change:
    change = low = high = None
    if a.points and b.points and a.metric == b.metric:
        evidence, _ = evidence_of(b.points, a.points, None, confidence, [])
        change, low, high = evidence.difference, evidence.ci_low, evidence.ci_high
    same = all(a.identities.values()) and a.identities == b.identities and bool(a.identities)
    return Change(*key, b.metric or a.metric, a.side, b.side, change, low, high, same, _note(a, b))


def _note(a: Configuration, b: Configuration) -> str:
    """A note on a change; empty if every seed is matched and the metric is the same."""
    if not a.points or not b.points:
        return ""
    if a.metric != b.metric:
        return f"judged by {a.metric} and by {b.metric}"
    if a.points == b.points:
        return "same scores"
    matched, count_a, count_b = len(a.points.keys() & b.points.keys()), len(a.points), len(b.points)
    return "" if matched == max(count_a, count_b) else f"{matched} matched seeds of {count_a} and {count_b}"
