"""The format's own arithmetic, and what a shard's Parquet file is made of."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.logits import format as cache_format

from .conftest import FINGERPRINTS, rows


@pytest.mark.parametrize(
    ("classes", "dtype", "expected"),
    [
        (1, "float32", 65536),  # 4 MiB / 4 B = 1048576 rows, the most is 65536
        (16, "float32", 65536),  # 4 MiB / 64 B = 65536
        (17, "float32", 32768),  # 4 MiB / 68 B = 61680, down to a power of two
        (100, "float32", 8192),  # 10485
        (100, "float16", 16384),  # 20971
        (1000, "float32", 1024),  # 1048
        (50_000, "float32", 1024),  # 20, the least is 1024
        (5_000_000, "float32", 1024),  # 0
    ],
)
def test_rows_per_group(classes, dtype, expected):
    assert cache_format.rows_per_group(classes, dtype) == expected


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_a_shard_is_made_of(dtype):
    ids, hashes, logits = rows(2500, classes=1000)
    data = cache_format.encode_shard(ids, hashes, logits.astype(dtype), {"split": "train"})
    file = pq.ParquetFile(pa.BufferReader(data))
    sizes = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
    assert sizes == ([1024, 1024, 452] if dtype == "float32" else [2048, 452])
    columns = {c.path_in_schema: c for c in map(file.metadata.row_group(0).column, range(3))}
    encodings = {name: column.encodings for name, column in columns.items()}
    assert "DELTA_BINARY_PACKED" in encodings["id"]
    assert "PLAIN" in encodings["row_hash"]
    assert "BYTE_STREAM_SPLIT" in encodings["logits.list.element"]
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    footer = json.loads(file.schema_arrow.metadata[b"kdcache"])
    values = ids.astype("<i8").tobytes() + hashes.astype("<u8").tobytes() + logits.astype(dtype).tobytes()
    assert footer == {"split": "train", "content": hashlib.sha256(values).hexdigest()}
    assert not any(field.nullable for field in file.schema_arrow)


def test_bytes_per_row_of_three_classes():
    ids, hashes, logits = rows(65536)
    data = cache_format.encode_shard(ids, hashes, logits, {"fingerprints": FINGERPRINTS.model_dump()})
    assert len(data) / 65536 < 20  # 8 (hash) + 12 (logits) are the plain values alone
    assert np.array_equal(
        pq.read_table(pa.BufferReader(data))["logits"].combine_chunks().flatten().to_numpy(),
        logits.reshape(-1),
    )
