from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.files import write_json
from kdcache.logits import Cost, Fingerprints, LogitWriter
from kdcache.params import Study
from kdcache.results import ResultsError, cost_table, trials_table
from kdcache.trials import TrialResult, write_result

MODEL = {"checkpoint": "models/m", "learning_rate": 0.1, "epochs": 1, "batch_size": 4}


def study(**changes: Any) -> Study:
    source = {"builtin": "digits"}
    task = {"source": source, "image": "image", "metrics": ["accuracy"]}
    fields: dict[str, Any] = {
        "seeds": [0, 1],
        "tasks": {"one": task, "two": task},
        "teachers": {"big": {**MODEL, "tasks": ["one"]}},
        "students": {
            "small": {**MODEL, "teacher": "big", "tasks": ["one"]},
            "tiny": {**MODEL, "tasks": ["two"]},
        },
        "regularizers": {"base": {}},
        "distillers": {},
        "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
    }
    return Study.model_validate({**fields, **changes})


def put_trial(root: Path, task: str, student: str, regularizer: str, seed: int, accuracy: float) -> None:
    folder = root / "trials" / task / student / regularizer / f"seed-{seed}"
    result = TrialResult(
        identity=f"{task}{seed}",
        task=task,
        student=student,
        family="vit",
        init="scratch",
        checkpoint="models/m",
        layers=None,
        teacher=None,
        regularizer=regularizer,
        seed=seed,
        params={},
        metrics={"accuracy": accuracy, "nll": 0.5},
        steps=1,
        losses=[0.5],
        seconds=1.5,
        peak_memory_mb=100.0,
        device="cpu",
        versions={},
    )
    write_result(folder, result)


def put_teacher(root: Path) -> None:
    folder = root / "logits" / "one" / "big"
    prints = Fingerprints(data="d", weights="w", preprocessing="p", code="c")
    with LogitWriter(folder, classes=2, label_names=["a", "b"], fingerprints=prints) as writer:
        writer.write("train", np.arange(2), np.arange(2, dtype=np.uint64), np.zeros((2, 2), dtype=np.float32))
        writer.finish(cost=Cost(seconds=0.5, rows_per_second=4.0, device="cpu", peak_memory_mb=50.0))
    write_json(folder / "teacher.json", {"seconds": 9.0, "peak_memory_mb": 200.0, "device": "cpu"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (0, 1):
        put_trial(tmp_path, "one", "small", "base", seed, 0.9 + seed / 100)
        put_trial(tmp_path, "two", "tiny", "base", seed, 0.8)
    put_teacher(tmp_path)
    return tmp_path


def test_one_row_per_trial_in_the_order_of_the_study(root: Path) -> None:
    table = trials_table(study(), root)
    assert list(table.columns) == [
        *("task", "student", "family", "init", "checkpoint", "layers", "teacher", "regularizer", "seed"),
        *("accuracy", "nll", "seconds", "peak_memory_mb", "device", "identity"),
    ]
    assert table[["task", "student", "seed", "accuracy"]].values.tolist() == [
        ["one", "small", 0, 0.9],
        ["one", "small", 1, 0.91],
        ["two", "tiny", 0, 0.8],
        ["two", "tiny", 1, 0.8],
    ]


def test_what_the_study_does_not_ask_for_is_in_no_table(root: Path) -> None:
    put_trial(root, "one", "small", "removed", 0, 0.1)
    put_trial(root, "one", "small", "base", 9, 0.1)
    assert len(trials_table(study(), root)) == 4
    assert len(trials_table(study(seeds=[1]), root)) == 2


def test_missing_trials_are_an_error_that_names_them(root: Path) -> None:
    with pytest.raises(ResultsError, match=r"2 trials are missing(.|\n)*one/small/base/seed-5"):
        trials_table(study(seeds=[0, 5]), root)


def test_costs_of_teacher_cache_and_trials(root: Path) -> None:
    table = cost_table(study(), root)
    rows = table[["kind", "model", "seconds", "peak_memory_mb"]].values.tolist()
    assert rows == [
        ["teacher", "big", 9.0, 200.0],
        ["cache", "big", 0.5, 50.0],
        *[["trial", "small", 1.5, 100.0]] * 2,
        *[["trial", "tiny", 1.5, 100.0]] * 2,
    ]
