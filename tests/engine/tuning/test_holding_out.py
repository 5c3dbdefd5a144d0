"""The task that is tuned on: which rows it has, and that the prepared task's validation is not opened for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import hypergeom

from kdcache.engine.tuning.holding_out import held_out_rows, hold_out
from kdcache.errors import TaskError
from kdcache.study import Task
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from tests.engine.tuning.project import LABELS, write_project


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedTask:
    monkeypatch.chdir(tmp_path)
    write_project(tuning=None)
    return PreparedTask(Path("data/tasks/words"))


def columns(task: PreparedTask, split: str) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = task.rows(split).to_pydict()
    return table


def test_train_is_parted_by_class_and_rows_keep_what_they_are(task: PreparedTask) -> None:
    (task.folder / "validation.parquet").write_bytes(b"nobody reads this")
    card = hold_out(task, Path("held"), 0.25, seed=3)
    held = PreparedTask(Path("held"))
    assert (held.card, card.rows) == (card, {"train": 30, "validation": 10})
    assert card.class_counts == {"train": [15, 15], "validation": [5, 5]}
    parts = [columns(held, split) for split in ("train", "validation")]
    assert [part["id"] for part in parts] == [list(range(30)), list(range(10))]
    rows = [sorted(zip(part["row_hash"], part["text"], part["label"], strict=True)) for part in parts]
    train = columns(task, "train")
    assert sorted([*rows[0], *rows[1]]) == sorted(
        zip(train["row_hash"], train["text"], train["label"], strict=True)
    )
    at = held_out_rows(np.array(train["label"]), 0.25, 3, False)
    assert parts[1]["text"] == [train["text"][row] for row in at]
    assert card.fingerprint != task.card.fingerprint


def test_the_same_seed_gives_the_same_task_and_writes_it_once(task: PreparedTask) -> None:
    first = hold_out(task, Path("held"), 0.25, seed=3)
    before = {path.name: path.stat().st_mtime_ns for path in Path("held").iterdir()}
    assert hold_out(task, Path("held"), 0.25, seed=3) == first
    assert {path.name: path.stat().st_mtime_ns for path in Path("held").iterdir()} == before
    assert hold_out(task, Path("held"), 0.25, seed=4).fingerprint != first.fingerprint
    assert hold_out(task, Path("held"), 0.5, seed=3).rows == {"train": 20, "validation": 20}


@pytest.mark.parametrize(
    ("fraction", "sizes"), [(0.01, "40 to learn from and 0"), (0.99, "0 to learn from and 40")]
)
def test_both_sides_need_rows(task: PreparedTask, fraction: float, sizes: str) -> None:
    with pytest.raises(TaskError, match=f"hold_out {fraction} of {len(LABELS)} train rows leaves {sizes}"):
        hold_out(task, Path("held"), fraction, seed=0)


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_held_out_rows_have_their_share_of_label_noise(tmp_path: Path, fraction: float) -> None:
    """Also with the same seed, 0, for both: rows are held out without regard to whether their labels are wrong."""
    classes = [str(row % 5) for row in range(1000)]
    lines = [json.dumps({"text": f"{row} is {label}", "label": label}) for row, label in enumerate(classes)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    files = {split: str(tmp_path / "rows.jsonl") for split in ("train", "validation")}
    spec = {"text": ["text"], "metrics": ["accuracy"], "max_length": 8, "label_noise": fraction}
    prepare_task(Task.model_validate({"source": {"files": files}, **spec}), tmp_path / "task")
    hold_out(PreparedTask(tmp_path / "task"), tmp_path / "held", 0.2, seed=0)
    held = columns(PreparedTask(tmp_path / "held"), "validation")
    wrong = sum(text[-1] != str(label) for text, label in zip(held["text"], held["label"], strict=True))
    # Of 1,000 rows 1,000 * fraction are wrong. How many of 200 drawn ones are is hypergeometric.
    low, high = hypergeom(1000, round(1000 * fraction), 200).interval(0.9999)
    assert low <= wrong <= high


def test_a_damaged_card_is_written_again(task: PreparedTask) -> None:
    card = hold_out(task, Path("held"), 0.25, seed=3)
    whole = Path("held/card.json").read_bytes()
    Path("held/card.json").write_bytes(whole[:9])
    assert hold_out(task, Path("held"), 0.25, seed=3) == card
    assert Path("held/card.json").read_bytes() == whole
