"""The same rows have the same hashes whatever holds them, and what holds none is refused with what to pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import CacheError
from kdcache.hashing.containers import TableRows, are_rows, by_position, check_rows, has_columns
from kdcache.hashing.rows import hash_row, hash_rows

ONE_ROW = datasets.Dataset.from_dict({"a": [1]})
NAMES = ["text", "number", "real", "yes", "tokens", "label"]


class MapStyle(torch.utils.data.Dataset):
    """A torch data set without an end: its index never raises."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index % len(self.rows)]


SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("number", pa.int64()),
        ("real", pa.float64()),
        ("yes", pa.bool_()),
        ("tokens", pa.list_(pa.int64())),
        ("label", pa.int64()),
    ]
)
CONTAINERS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "list": list,
    "tuple": tuple,
    "dataset": lambda rows: datasets.Dataset(pa.Table.from_pylist(rows, SCHEMA)),
    "formatted": lambda rows: datasets.Dataset(pa.Table.from_pylist(rows, SCHEMA)).with_format("pandas"),
    "arrow": lambda rows: pa.Table.from_pylist(rows, SCHEMA),
    "chunked": lambda rows: pa.concat_tables([pa.Table.from_pylist([row], SCHEMA) for row in rows]),
    "record batch": lambda rows: pa.RecordBatch.from_pylist(rows, SCHEMA),
    "pandas": pd.DataFrame,
    "pandas, another index": lambda rows: pd.DataFrame(rows, index=range(7, 7 + len(rows))),
    "polars": lambda rows: pl.from_arrow(pa.Table.from_pylist(rows, SCHEMA)),
    "torch": MapStyle,
    "torch subset": lambda rows: torch.utils.data.Subset(MapStyle([{}, *rows]), range(1, len(rows) + 1)),
}
ROWS = st.fixed_dictionaries(
    {
        "text": st.text(st.characters(exclude_categories=["Cs"])),
        "number": st.integers(-(2**63), 2**63 - 1),
        "real": st.floats(allow_nan=False),
        "yes": st.booleans(),
        "tokens": st.lists(st.integers(0, 9), min_size=1, max_size=3),
        "label": st.integers(0, 4),
    }
)


@settings(max_examples=25, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5))
def test_the_same_rows_have_the_same_hashes_in_every_container(rows: list[dict[str, Any]]) -> None:
    expected = [hash_row(row, NAMES[:-1], "label") for row in rows]
    everything = [hash_row(row) for row in rows]
    for name, made in CONTAINERS.items():
        assert hash_rows(made(rows), NAMES[:-1], "label").tolist() == expected, name
        assert hash_rows(made(rows)).tolist() == everything, name
        found = by_position(made(rows))
        assert [hash_row(found[k]) for k in range(len(found))] == everything, name


def test_a_table_stays_a_table() -> None:
    table = CONTAINERS["arrow"]([dict(zip(NAMES, ("a", 1, 1.5, True, [1], 0), strict=True))])
    rows = by_position(table)
    assert isinstance(rows, TableRows)
    assert rows.table is table


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pl.LazyFrame({"a": [1]}), r"found LazyFrame; call its collect\(\) first"),
        (pd.Series(["a"]), r"found Series; call its to_frame\(\) first"),
        (pa.RecordBatchReader.from_batches(SCHEMA, []), r"call its read_all\(\) first"),
        (ONE_ROW.to_iterable_dataset(), "found IterableDataset; a stream has no row ids"),
        (datasets.DatasetDict(train=ONE_ROW), r"DatasetDict; choose one split .* such as data\['train'\]"),
        ({"text": ["a"], "label": [0]}, r"of a mapping of columns \('text', 'label'\) make datasets.Dataset.from_dict"),
        ({"x": np.zeros(3)}, "of a mapping of columns"),
        ("train.csv", "found str; read the file first"),
        (Path("train.csv"), "Path; read the file first"),
        (iter([{"a": 1}]), "found list_iterator; give a datasets.Dataset, a table"),
        (5, "found int; give a datasets.Dataset"),
    ],
)  # fmt: skip
def test_what_holds_no_rows_is_refused_with_what_to_pass(data: Any, message: str) -> None:
    for refuse in (by_position, check_rows, hash_rows):
        with pytest.raises(CacheError, match=message):
            refuse(data)


def test_rows_and_batches_are_told_apart() -> None:
    row = {"text": "a", "pixels": torch.zeros(2)}
    batch = {"text": ["a"], "pixels": torch.zeros(1, 2)}
    assert are_rows([row])
    assert are_rows([("a", 1)])
    assert are_rows(MapStyle([row]))
    assert not are_rows([batch])
    assert not are_rows([])
    assert not are_rows(torch.utils.data.DataLoader(MapStyle([row])))
    assert not are_rows(batch)
    assert has_columns(batch)
    assert not has_columns({"train": [row], "validation": []})
    assert not has_columns({"train": pd.DataFrame([{"a": 1}])})
