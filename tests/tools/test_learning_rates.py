"""Choosing learning rates: on a part of train, never on validation; the best mean is chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.study import Task
from kdcache.tasks.prepared import PreparedTask
from tools import learning_rates


def test_the_held_out_rows_are_train_rows(tmp_path: Path) -> None:
    for split, rows in (("train", 50), ("validation", 8)):
        table = pa.table(
            {"text": [f"{split} {row}" for row in range(rows)], "label": [row % 2 for row in range(rows)]}
        )
        pq.write_table(table, tmp_path / f"{split}.parquet")
    files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "validation")}
    task = Task(source={"files": files}, text=["text"], metrics=["accuracy"], max_length=8)  # type: ignore[arg-type]
    learning_rates._prepare(task, tmp_path / "out", "mine", rows=40)
    kept, held = (PreparedTask(tmp_path / "out" / "task").rows(split) for split in ("train", "validation"))
    assert (kept.num_rows, held.num_rows) == (32, 8)
    texts = kept["text"].to_pylist() + held["text"].to_pylist()
    assert len(set(texts)) == 40
    assert all(text.startswith("train") for text in texts)
    assert sorted(held["label"].to_pylist()) == [0] * 4 + [1] * 4


def test_the_best_mean_over_the_tasks() -> None:
    found = learning_rates._best({"1e-3": {"a": 0.9, "b": 0.5}, "1e-4": {"a": 0.7, "b": 0.8}})
    assert found["chosen"] == 1e-4
    assert found["mean"] == {"1e-3": 0.7, "1e-4": 0.75}


def test_an_unknown_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["studies/smoke.yaml", "--rates", "nobody=1e-3", "--out", str(tmp_path / "rates.json")]
    with pytest.raises(SystemExit):
        learning_rates.main(arguments)
    assert "no model 'nobody'" in capsys.readouterr().err
    assert not (tmp_path / "rates.json").exists()


def test_a_study_of_images(tmp_path: Path) -> None:
    """Really trained: at a rate of 1e-9 nothing is learned, so the other one is chosen."""
    out = tmp_path / "rates.json"
    rates = "vit-tiny-scratch=1e-9,2e-3"
    learning_rates.main(["studies/smoke.yaml", "--rates", rates, "--rows", "500", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["models"]["vit-tiny-scratch"]["chosen"] == 2e-3
    assert "at most 500 train rows" in found["how"]
