"""Parquet: what is read, and what each failure says. DuckDB reads the same rows."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcache.tasks.sources import load_source
from tests.tasks.files import ROWS, parquet, read, refusal, task


def test_a_cut_file(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "a.parquet", ROWS).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    refusal(r"cut\.parquet: cannot be read", tmp_path / "cut.parquet", tmp_path / "a.parquet")


def test_texts_that_are_not_in_utf8(tmp_path: Path) -> None:
    """Arrow reads them as texts nevertheless."""
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"b"]).buffers())
    pq.write_table(pa.table({"text": bad, "label": ["a", "b"]}), tmp_path / "a.parquet")
    refusal("a.parquet: cannot be read: .*UTF8", tmp_path / "a.parquet", tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a", "b"], "label": bad}), tmp_path / "a.parquet")
    refusal("a.parquet: cannot be read: .*UTF8", tmp_path / "a.parquet", tmp_path / "a.parquet")


def test_class_names_that_are_no_list_of_texts(tmp_path: Path) -> None:
    for names in ("neg", {"0": "neg"}, [0, 1]):
        path = parquet(tmp_path / "a.parquet", ROWS, names)  # type: ignore[arg-type]
        refusal("class names that are no list of texts", path, path)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "none"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_are_those_that_duckdb_reads(tmp_path: Path, compression: str, data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=9), min_size=1, max_size=40))
    labels = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(texts), max_size=len(texts)))
    kind = data.draw(
        st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
    )
    path = tmp_path / "a.parquet"
    table = pa.table({"label": labels, "text": pa.array(texts).cast(kind)})
    size, dictionary = data.draw(st.integers(1, 50)), data.draw(st.booleans())
    pq.write_table(table, path, row_group_size=size, use_dictionary=dictionary, compression=compression)
    expected = duckdb.sql(f"select text, label from read_parquet('{path}')").fetchall()
    rows = read(load_source(task(path, path)))
    assert list(zip(rows["text"], rows["label"], strict=True)) == expected


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.5, -0.1], pa.float32()),
        pa.array(np.array([1.5, -0.1], np.float16)),
        pa.array([Decimal("0.10"), Decimal("12345678.25")], pa.decimal128(20, 2)),
        pa.array([3, -3], pa.int8()),
        pa.array([2**40, 7], pa.uint64()),
    ],
    ids=str,
)
def test_scores_are_those_that_duckdb_reads(tmp_path: Path, column: pa.Array) -> None:
    from kdcache.tasks.labels import read_labels

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": column}), path)
    loaded = load_source(task(path, path, metrics=["pearson"]))
    values = read_labels({"train": loaded.splits["train"].label}, None, regression=True).values["train"]
    expected = duckdb.sql(f"select label::double from read_parquet('{path}')").fetchall()
    assert values.tolist() == [value for (value,) in expected]


def test_a_damaged_page_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {"text": [f"text {row}" for row in range(100)], "label": [0, 1] * 50}
    pq.write_table(pa.table(columns), path, write_page_checksum=True, use_dictionary=False)
    damaged = bytearray(path.read_bytes())
    damaged[4:200] = bytes(196)
    path.write_bytes(bytes(damaged))
    refusal(r"a\.parquet: cannot be read", path, path)


def test_damaged_metadata(tmp_path: Path) -> None:
    table = pa.table(ROWS).replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, tmp_path / "a.parquet")
    refusal("Hugging Face metadata cannot be read", tmp_path / "a.parquet", tmp_path / "a.parquet")
