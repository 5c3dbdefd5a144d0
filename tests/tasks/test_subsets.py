"""train_size: stratified, seeded, nested; the rows that are left keep their texts and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import TaskError
from kdcache.study import Task
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.subsets import stratified, taken

classes = st.lists(st.integers(0, 4), min_size=1, max_size=80)


@given(classes, st.data(), st.integers(0, 5))
def test_each_class_has_about_its_share(labels: list[int], data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(0, len(labels)))
    rows = stratified(labels, size, seed)
    assert len(rows) == len(set(rows.tolist())) == size
    assert (np.sort(rows) == rows).all()
    for label in set(labels):
        share = size * labels.count(label) / len(labels)
        drawn = sum(labels[row] == label for row in rows)
        # Up to any place t of the line a class of n rows has n * t of them, give or take a half (a whole one where the
        # draw ends among equal places); the size differs from the sum of n * t by as much for each class.
        assert abs(drawn - share) <= 1 + len(set(labels)) * labels.count(label) / len(labels)


def test_equal_classes_are_drawn_alike() -> None:
    assert (
        sorted(row % 3 for row in stratified([row % 3 for row in range(30)], 12, 0))
        == [0] * 4 + [1] * 4 + [2] * 4
    )


@given(classes, st.data(), st.integers(0, 5))
def test_a_larger_draw_holds_every_smaller_one(labels: list[int], data: st.DataObject, seed: int) -> None:
    large = data.draw(st.integers(0, len(labels)))
    small = data.draw(st.integers(0, large))
    assert set(stratified(labels, small, seed)) <= set(stratified(labels, large, seed))


def test_the_seed_decides() -> None:
    labels = [0, 1] * 50
    assert stratified(labels, 10, 1).tolist() == stratified(labels, 10, 1).tolist()
    assert stratified(labels, 10, 1).tolist() != stratified(labels, 10, 2).tolist()


def test_taken_rows_across_batches() -> None:
    tables = [pa.table({"text": ["a", "b", "c"]}), pa.table({"text": ["d"]}), pa.table({"text": ["e", "f"]})]
    found = taken(lambda: iter(tables), np.array([0, 2, 5]))
    assert [table["text"].to_pylist() for table in found()] == [["a", "c"], ["f"]]


def write_task(folder: Path, size: int | None, rows: int = 40) -> Task:
    """Rows whose text says their label, so that a mix-up shows."""
    labels = [["no", "yes", "maybe"][row % 4 // 2 + (row % 8 == 7)] for row in range(rows)]
    table = pa.table({"text": [f"row {row} {label}" for row, label in enumerate(labels)], "label": labels})
    pq.write_table(table, folder / "train.parquet")
    pq.write_table(table, folder / "validation.parquet")
    files = {split: str(folder / f"{split}.parquet") for split in ("train", "validation")}
    return Task(source={"files": files}, text=["text"], metrics=["accuracy"], max_length=8, train_size=size)  # type: ignore[arg-type]


def test_a_prepared_part_of_a_task(tmp_path: Path) -> None:
    card = prepare_task(write_task(tmp_path, 12), tmp_path / "task")
    assert card.rows == {"train": 12, "validation": 40}
    assert card.dropped == {"not drawn (train_size: 12)": 28}
    table = PreparedTask(tmp_path / "task").rows("train")
    assert table["id"].to_pylist() == list(range(12))
    for text, label in zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True):
        assert text.endswith(card.label_names[label])


def test_the_whole_train_split_is_the_same_task(tmp_path: Path) -> None:
    whole = prepare_task(write_task(tmp_path, None), tmp_path / "whole")
    assert prepare_task(write_task(tmp_path, 40), tmp_path / "all").fingerprint == whole.fingerprint
    assert prepare_task(write_task(tmp_path, 39), tmp_path / "part").fingerprint != whole.fingerprint


def test_more_rows_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="train_size: 41 rows asked for, but train has 40"):
        prepare_task(write_task(tmp_path, 41), tmp_path / "task")
