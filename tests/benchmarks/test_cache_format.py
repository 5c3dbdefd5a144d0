"""The benchmark of the format's choices on a few rows: that it encodes what it says, not how fast."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import cache_format
from benchmarks.cache.measuring import peaky_logits, row_hashes
from kdcache.logits.format import encode_shard, rows_per_group


@pytest.fixture(autouse=True)
def threads():
    before = pa.cpu_count()
    yield
    pa.set_cpu_count(before)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_formats_own_choice_gives_its_bytes(dtype):
    logits = peaky_logits(50, 7).astype(dtype)
    choice = cache_format.Choice(rows_per_group(7, dtype), dtype=dtype)
    shard = encode_shard(np.arange(50), row_hashes(50), logits, {"shard": 0})
    assert cache_format.encode(cache_format.as_table(logits), choice) == shard


def test_a_choice_is_what_is_written():
    choice = cache_format.Choice(16, split_bytes=False, compression="snappy", level=None)
    rows = cache_format.as_table(peaky_logits(50, 7))
    data = cache_format.encode(rows, choice)
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    column = metadata.row_group(0).column(2)
    assert (metadata.num_row_groups, metadata.row_group(0).num_rows) == (4, 16)
    assert column.compression == "SNAPPY"
    assert "BYTE_STREAM_SPLIT" not in column.encodings
    assert cache_format.decode(data) == 50


def test_every_choice_once_and_one_of_each_type_is_the_formats():
    found = cache_format.measure(peaky_logits(64, 3), repeats=1)
    assert len({one.choice for one in found}) == len(found) == 19
    assert [one.choice.dtype for one in found if one.chosen] == ["float32", "float16"]


def test_the_page_has_a_row_for_every_choice(tmp_path):
    page, numbers = tmp_path / "docs" / "page.md", tmp_path / "results" / "run.json"
    cache_format.main(["--repeats", "1", "--megabytes", "0.02", "--json", str(numbers), "--page", str(page)])
    run = json.loads(numbers.read_text())
    assert len(run["choices"]) == 3 * 19
    text = page.read_text()
    assert text.count("\n| ") == 3 * (19 + 2)
    assert text.count("| **float32** |") == text.count("| **float16** |") == 3
    assert str(tmp_path) not in text + numbers.read_text()
