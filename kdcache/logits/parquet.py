"""A shard's file: its footer, how it is written, and how it is opened and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import CacheError
from kdcache.logits.records import Layout
from kdcache.system.quoting import quoted

METADATA_KEY = b"kdcache"  # key of the shard's own description in the Parquet footer
OPTIONAL = ("augmentation", "kind")  # keys that only some footers have; refused if they are not expected


def shard_metadata(header: Layout, split: str, index: int) -> dict[str, Any]:
    """A shard's description in its Parquet footer: its cache, split and number, without the checksum `content`."""
    return {
        "format_version": header.format_version,
        "split": split,
        "shard": index,
        "rows_per_shard": header.rows_per_shard,
        "fingerprints": header.fingerprints.model_dump(),
        **header.own_metadata(),
    }


def parquet_bytes(
    columns: list[pa.Array],
    schema: pa.Schema,
    metadata: dict[str, Any],
    group_rows: int,
    encodings: Mapping[str, str],
) -> bytes:
    """A Parquet file's bytes: zstd, no dictionaries, no statistics, and the metadata in its footer."""
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode()
    table = pa.Table.from_arrays(columns, schema=schema.with_metadata({METADATA_KEY: text}))
    out = pa.BufferOutputStream()
    pq.write_table(
        table,
        out,
        row_group_size=group_rows,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        write_statistics=False,
        column_encoding=dict(encodings),
    )
    return bytes(out.getvalue())


def content_checksum(*columns: np.ndarray) -> str:
    """sha256 of the columns' values, little-endian, one column after the other."""
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def open_shard(
    source: bytes | Path, path: Path, header: Layout, split: str, index: int, rows: int
) -> pq.ParquetFile:
    """Open a shard, from its bytes or its file, and check that it is shard `index` of the split, with `rows` rows.

    Raises:
        CacheError: it is not a Parquet file, or has other columns or types or another number of rows; or it is a
            shard of another cache or place.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)
        found_schema, found_rows = file.schema_arrow, file.metadata.num_rows
        found_footer = json.loads((found_schema.metadata or {}).get(METADATA_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise CacheError(
            f"{path}: is no whole Parquet file ({error!s:.300}); cache the logits again"
        ) from error
    expected_schema = header.arrow_schema()
    if not found_schema.equals(expected_schema):
        columns = ", ".join(f"{field.name} {field.type}" for field in found_schema)
        expected_columns = ", ".join(f"{field.name} {field.type}" for field in expected_schema)
        raise CacheError(
            f"{path}: expected the columns {expected_columns}; found {columns:.300}; cache the logits again"
        )
    if found_rows != rows:
        raise CacheError(f"{path}: expected {rows} rows, found {found_rows}; cache the logits again")
    _check_footer(
        path, shard_metadata(header, split, index), found_footer if isinstance(found_footer, dict) else {}
    )
    return file


def _check_footer(path: Path, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    differing = [key for key in (*expected, *OPTIONAL) if actual.get(key) != expected.get(key)]
    if differing:
        expected_text, actual_text = (
            ", ".join(f"{key} {quoted(side.get(key))}" for key in dict.fromkeys(differing))
            for side in (expected, actual)
        )
        raise CacheError(
            f"{path}: is not the shard that the manifest means; expected {expected_text}; found {actual_text}; "
            "cache the logits again"
        )


def sha256(data: bytes) -> str:
    """Checksum of a shard's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def shard_content(path: Path) -> str:
    """The checksum of a shard's columns, from its footer. It is equal if two shards hold the same rows and logits.

    Raises:
        CacheError: the file is not a shard of a logit cache.
    """
    try:
        footer = json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"null"))
        return str(footer["content"])
    except (pa.ArrowException, OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CacheError(
            f"{path}: has no footer of a logit cache ({error}); cache the logits again"
        ) from None
