"""Small studies and trials tables whose comparisons can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdcache.study import Study

TRAINING: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8}


def make_study(
    tasks: Sequence[str] = ("news",),
    students: Mapping[str, tuple[str, str]] | None = None,
    methods: Sequence[str] = ("smooth",),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    **comparison: Any,
) -> Study:
    """A study of text tasks scored by accuracy; students: name -> (checkpoint, init)."""
    students = students or {"tiny": ("tiny", "pretrained")}
    return Study.model_validate(
        {
            "seeds": list(seeds),
            "tasks": {name: _task() for name in tasks},
            "students": {n: {"checkpoint": c, "init": i, **TRAINING} for n, (c, i) in students.items()},
            "regularizers": {"base": {}} | {n: {"soft_labels": "uniform", "alpha": 0.1} for n in methods},
            "comparison": {"margin": {"accuracy": 1.0}} | comparison,
        }
    )


def _task() -> dict[str, Any]:
    return {
        "source": {"files": {"train": "a.csv", "validation": "b.csv"}},
        "text": ["text"], "metrics": ["accuracy"], "max_length": 8,
    }  # fmt: skip


def make_trials(points: Mapping[tuple[str, str, str], Sequence[float] | Mapping[int, float]]) -> pd.DataFrame:
    """(task, student, regularizer) -> points by seed (a list: seeds 0, 1, ...), as trials.csv has them."""
    rows = []
    for (task, student, regularizer), values in points.items():
        by_seed = values if isinstance(values, Mapping) else dict(enumerate(values))
        for seed, value in by_seed.items():
            rows.append({
                "task": task, "student": student, "family": "bert", "regularizer": regularizer, "seed": seed,
                "accuracy": value / 100,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "student", "family", "regularizer", "seed", "accuracy"])
