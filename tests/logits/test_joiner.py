"""Which column tells the rows apart, and what is said of data that do not fit: never another row's logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
import torch

from kdcache.errors import CacheError
from kdcache.hashing.rows import hash_rows
from kdcache.logits import LogitCache, LogitWriter
from kdcache.logits.join import join

from .conftest import FINGERPRINTS

TEXTS = ["a", "b", "c"]
LOGITS = np.array([[0, 1], [2, 3], [4, 5]], np.float32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LogitCache:
    path = tmp_path_factory.mktemp("joiner") / "cache"
    with LogitWriter(path, classes=2, label_names=[], fingerprints=FINGERPRINTS) as writer:
        writer.write("train", [0, 1, 2], hash_rows([{"text": text} for text in TEXTS]), LOGITS)
        writer.finish()
    return LogitCache(path)


@pytest.mark.parametrize("ids", ["id", "rowno"])
def test_a_misspelt_column_is_refused_and_no_other_is_trusted(cache: LogitCache, ids: str) -> None:
    table = pa.table({"id": [2, 1, 0], "row_no": [0, 1, 2], "text": TEXTS})
    trusted = join(cache, table, id_column="row_no", hash_column=None)
    np.testing.assert_array_equal(trusted["teacher_logits"].to_pylist(), LOGITS)
    for data in (table, table.to_pandas(), table.to_pylist()):
        with pytest.raises(
            CacheError, match="no column 'rowno'; there are: 'id', 'row_no', 'text'; id_column="
        ):
            join(cache, data, id_column="rowno", hash_column=None)
        for options in ({"id_column": "id"}, {"columns": ["text"]}, {}):
            with pytest.raises(CacheError, match=r"no column 'hash'; there are: .*; hash_column="):
                join(cache, data, hash_column="hash", **options)
    with pytest.raises(CacheError, match=r"batch 0: .*no column 'rowno'"):
        next(iter(join(cache, [{"id": torch.arange(3)}], id_column="rowno", hash_column=None)))


def test_a_table_with_a_column_twice(cache: LogitCache) -> None:
    hashes = hash_rows([{"text": text} for text in TEXTS])
    columns = [pa.array(hashes), pa.array(hashes)]
    with pytest.raises(CacheError, match="there are two columns 'row_hash'; rename one"):
        join(cache, pa.table(columns, ["row_hash", "row_hash"]))
    with pytest.raises(CacheError, match="there are two columns 'id'; rename one"):
        join(cache, pa.table([*columns, *columns[:1]], ["id", "id", "row_hash"]))
    frame = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(CacheError, match="the DataFrame has the column 'text' twice; rename or drop one"):
        join(cache, frame, columns=["text"])


def test_an_empty_frame_gets_the_column(cache: LogitCache) -> None:
    frame = pd.DataFrame({"text": TEXTS})
    joined = join(cache, frame[:0], columns=["text"])
    assert list(joined.columns) == ["text", "teacher_logits"]
    assert len(joined) == 0


def test_what_was_assumed_is_said(cache: LogitCache) -> None:
    rows: list[dict[str, Any]] = [{"x": [1, 2]}, {"x": [3, 4]}]
    with pytest.raises(CacheError, match=r"is taken for batches; if these are rows, .*from_list\(rows\)"):
        list(join(cache, rows, columns=["x"]))
    with pytest.raises(CacheError, match=r"cannot join logits to a LazyFrame; call its collect\(\) first"):
        join(cache, polars.LazyFrame({"text": TEXTS}), columns=["text"])


@pytest.mark.parametrize("columns", [{"text", "label"}, (name for name in ["text"])])
def test_columns_without_an_order_are_refused(cache: LogitCache, columns: Any, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="columns must be a list or tuple of names"):
        join(cache, pa.table({"text": TEXTS, "label": [0, 1, 0]}), columns=columns, label="label")
