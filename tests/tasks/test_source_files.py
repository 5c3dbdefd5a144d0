"""Files of every kind: what they deliver, and what each failure says."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from kdcache.tasks.sources import load_source
from tests.tasks.files import ROWS, parquet, read, refusal, task, write


def test_parquet_with_class_names(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", ROWS, names=["neg", "pos"])
    loaded = load_source(task(path, path))
    assert read(loaded) == ROWS
    assert loaded.splits["train"].names == ["neg", "pos"]
    recorded = loaded.resolved["files"]["train"][0]
    assert recorded["file"] == path.as_posix()
    assert len(recorded["sha256"]) == 64


def test_several_files_make_one_split_in_order(tmp_path: Path) -> None:
    first = parquet(tmp_path / "a.parquet", {"text": ["a"], "label": pa.array([0], pa.int32())}, ["x", "y"])
    second = parquet(tmp_path / "b.parquet", {"label": [1], "text": ["b"], "more": [0]}, ["x", "y"])
    third = write(tmp_path / "c.csv", "text,label\nc,1\n")
    loaded = load_source(task([first, second, third], first))
    assert read(loaded) == {"text": ["a", "b", "c"], "label": [0, 1, 1]}
    assert loaded.splits["train"].names == ["x", "y"]
    assert [item["file"] for item in loaded.resolved["files"]["train"]] == [
        path.as_posix() for path in (first, second, third)
    ]


def test_large_splits_come_in_batches(tmp_path: Path) -> None:
    columns = {"text": [str(row) for row in range(2500)], "label": [0, 1] * 1250}
    path = parquet(tmp_path / "a.parquet", columns)
    sizes = [batch.num_rows for batch in load_source(task(path, path)).splits["train"].batches()]
    assert sizes == [1024, 1024, 452]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    good = parquet(tmp_path / "a.parquet", ROWS)
    refusal(r"validation: .*no\.parquet: the file does not exist", good, tmp_path / "no.parquet")
    refusal("does not exist .*working directory; ~ is no home folder here", "~/a.csv", good)
    refusal("train: .*is a folder; list the files", tmp_path, good)
    refusal("the file does not exist", good / "inside.csv", good)
    refusal("cannot be read: .*too long", tmp_path / ("x" * 300 + ".csv"), good)
    refusal("cannot be read: .*null byte", str(tmp_path) + "/a\0b.csv", good)
    refusal(r"expected a file named \.parquet, \.csv, .*found '?\.xls", write(tmp_path / "a.xls", "x"), good)


@pytest.mark.parametrize("name", ["b.parquet", "b.csv", "b.jsonl"])
def test_empty_files(tmp_path: Path, name: str) -> None:
    good = parquet(tmp_path / "a.parquet", ROWS)
    refusal(rf"train: .*{name}: the file is empty", write(tmp_path / name, ""), good)


def test_files_without_rows(tmp_path: Path) -> None:
    good = parquet(tmp_path / "a.parquet", ROWS)
    none = {"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}
    refusal("there are no rows", parquet(tmp_path / "b.parquet", none), good)
    refusal("there are no rows", write(tmp_path / "b.csv", "text,label\n"), good)
    refusal("there are no rows", write(tmp_path / "b.jsonl", "\n\n"), good)


@pytest.mark.parametrize("name", ["b.parquet", "b.csv", "b.jsonl"])
def test_a_missing_column_lists_those_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "b.parquet":
        parquet(path, {"sentence": ["a"], "label": [0]})
    else:
        write(path, "sentence,label\na,0\n" if name == "b.csv" else '{"sentence": "a", "label": 0}')
    refusal("train: .*no column 'text'; there are: sentence, label", path, path)
    refusal("no column 'topic'; there are: sentence, label", path, path, text=["sentence"], label="topic")


def test_a_missing_column_that_looks_like_one_that_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "te\u0301xt,label\na,0\n")
    refusal(r"no column 't\\xe9xt'; there are: 'te\\u0301xt', label", path, path, text=["t\u00e9xt"])


def test_a_column_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,text,label\na,b,0\n")
    refusal("2 columns are named 'text'", path, path)


def test_files_that_are_no_regular_files(tmp_path: Path) -> None:
    good = parquet(tmp_path / "a.parquet", ROWS)
    for name in ("b.csv", "b.jsonl", "b.parquet"):
        os.mkfifo(tmp_path / name)
        refusal(f"train: .*{name}: is no regular file but a pipe", tmp_path / name, good)
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    refusal("validation: .*is no regular file", good, tmp_path / "zero.csv")


def test_files_that_disagree(tmp_path: Path) -> None:
    first = parquet(tmp_path / "a.parquet", ROWS, ["x", "y"])
    second = parquet(tmp_path / "b.parquet", ROWS, ["y", "x"])
    refusal("train: its files declare different class names: x, y; y, x", [first, second], first)
    third = parquet(tmp_path / "c.parquet", {"text": ["a"], "label": ["x"]})
    refusal("train: the labels of its files are of different types: int64, string", [first, third], first)


def test_csv_texts_and_parquet_integers_in_one_split(tmp_path: Path) -> None:
    first = parquet(tmp_path / "a.parquet", ROWS)
    second = write(tmp_path / "b.csv", "text,label\nmore,0\n")
    assert read(load_source(task([first, second], second)))["label"] == [1, 0, 1, 0]
    third = write(tmp_path / "c.csv", "text,label\nmore,00\n")
    refusal("labels of its files are of different types: int64, string", [first, third], second)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view()])
def test_texts_of_any_width_are_texts(tmp_path: Path, kind: pa.DataType) -> None:
    first = parquet(tmp_path / "a.parquet", {"text": ["a"], "label": pa.array(["x"], kind)})
    second = parquet(tmp_path / "b.parquet", {"text": ["b"], "label": ["y"]})
    third = write(tmp_path / "c.csv", "text,label\nc,x\n")
    assert read(load_source(task([first, second, third], first)))["label"] == ["x", "y", "x"]


def test_decimals_beside_floats_are_the_nearest_floats(tmp_path: Path) -> None:
    first = parquet(tmp_path / "a.parquet", {"text": ["a"], "label": pa.array([Decimal("297.9")])})
    second = write(tmp_path / "b.jsonl", '{"text": "b", "label": 0.5}')
    declared = task([first, second], second, metrics=["pearson"])
    assert read(load_source(declared))["label"] == [297.9, 0.5]
