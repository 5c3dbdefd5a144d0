"""A prepared task of documents: texts without labels, whose fingerprint is of them alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.engine.tuning.holding_out import hold_out
from kdcache.errors import TaskError
from kdcache.study import Task
from kdcache.tasks.card import TaskCard, read_card
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask


def prepared(root: Path, name: str = "docs", texts: list[str] | None = None, **changes: Any) -> TaskCard:
    files = {}
    for split, rows in (
        ("train", texts or ["one two", "three", "four", "five"]),
        ("validation", ["six", "one two"]),
    ):
        files[split] = str(root / f"{name}-{split}.parquet")
        pq.write_table(pa.table({"body": rows, "topic": [1] * len(rows)}), files[split])
    fields = {"kind": "language_modelling", "source": {"files": files}, "text": ["body"], "max_length": 8,
              "metrics": ["nll"]}  # fmt: skip
    return prepare_task(Task.model_validate({**fields, **changes}), root / name, name)


def test_rows_are_texts_and_their_hashes(tmp_path: Path) -> None:
    card = prepared(tmp_path)
    table = PreparedTask(tmp_path / "docs").rows("train")
    assert table.column_names == ["id", "row_hash", "text"]
    assert table["text"].to_pylist() == ["one two", "three", "four", "five"]
    assert (card.language_modelling, card.rows, card.class_counts) == (
        True,
        {"train": 4, "validation": 2},
        {},
    )
    assert card.shared_rows == 1  # "one two" is in both
    assert read_card(tmp_path / "docs") == card


def test_the_fingerprint_is_of_the_documents_alone(tmp_path: Path) -> None:
    same = [prepared(tmp_path, f"docs{place}", **changes).fingerprint for place, changes in enumerate(
        ({}, {"max_length": 64}, {"metrics": ["bits_per_byte"]})
    )]  # fmt: skip
    assert len(set(same)) == 1
    assert prepared(tmp_path, "other", texts=["one two", "three", "four", "fiv"]).fingerprint not in same


def test_train_size_draws_documents(tmp_path: Path) -> None:
    card = prepared(tmp_path, train_size=2)
    assert card.rows == {"train": 2, "validation": 2}
    assert card.dropped == {"not drawn (train_size: 2)": 2}


def test_an_empty_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="'body' is empty in 1 row"):
        prepared(tmp_path, texts=["one", "  "])


def test_documents_are_held_out_for_tuning(tmp_path: Path) -> None:
    prepared(tmp_path)
    card = hold_out(PreparedTask(tmp_path / "docs"), tmp_path / "held", 0.5, seed=0)
    assert (card.rows, card.kind) == ({"train": 2, "validation": 2}, "language_modelling")
    texts = [
        PreparedTask(tmp_path / "held").rows(split)["text"].to_pylist() for split in ("train", "validation")
    ]
    assert sorted(texts[0] + texts[1]) == ["five", "four", "one two", "three"]


def test_a_card_of_labelled_rows_is_written_as_before(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), tmp_path / "rows.parquet")
    files = dict.fromkeys(("train", "validation"), str(tmp_path / "rows.parquet"))
    spec = {"source": {"files": files}, "text": ["text"], "metrics": ["accuracy"], "max_length": 8}
    prepare_task(Task.model_validate(spec), tmp_path / "rows")
    assert "kind" not in json.loads((tmp_path / "rows" / "card.json").read_text())
