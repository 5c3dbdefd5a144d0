"""The logit cache's format, version 1: the shards, the manifest, and what is refused.

Names, types, encodings and sizes are decided here. The writer and the reader follow. docs/cache-format.md describes
the format for readers in other languages. Nothing is pickled or executed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from kdcache.hashing.digests import XXH3, Algorithm
from kdcache.logits.parquet import content_checksum, parquet_bytes
from kdcache.logits.records import Augmentation, Fingerprints, Layout, Sealed
from kdcache.logits.rows import CachedSplit

FORMAT_VERSION = 1
ROWS_PER_SHARD = 65536
MOST_VALUES = 2**31 - 1  # logits of a row: Arrow counts a list's elements in 32 bits
GROUP_BYTES = 4 << 20  # approximate; a row group is then small enough to shuffle, and big enough to read fast

Dtype = Literal["float32", "float16"]


class Header(Layout):
    """The part of the manifest that is fixed before the first row is written; it is the same for every shard."""

    VERSION: ClassVar[int] = FORMAT_VERSION
    format_version: Literal[1] = 1
    classes: int = Field(ge=1)
    label_names: list[str]
    dtype: Dtype
    rows_per_shard: int = Field(ge=1)
    fingerprints: Fingerprints
    augmentation: Augmentation | None = None
    row_hash: Algorithm = XXH3  # the row hashes' algorithm; manifests of kdcache 0.1 do not name it

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row's logits: (K,), or (V, K) if each row has V views."""
        return (self.augmentation.views, self.classes) if self.augmentation else (self.classes,)

    @property
    def row_values(self) -> int:
        """How many logits a row has: K, or V K."""
        return math.prod(self.row_shape)

    @model_serializer(mode="wrap")
    def _without_what_older_caches_lack(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `augmentation` if there are no views, and `row_hash` if it is XXH3. Then the bytes and the identity
        of such a cache stay as they were before these fields existed."""
        fields: dict[str, Any] = dump(self)
        if self.augmentation is None:
            fields.pop("augmentation", None)
        if self.row_hash == XXH3:
            fields.pop("row_hash", None)
        return fields

    @model_validator(mode="after")
    def _row_fits(self) -> Self:
        if self.row_values > MOST_VALUES:
            raise ValueError(f"a row of {' x '.join(map(str, self.row_shape))} logits is too long")
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if self.label_names and len(self.label_names) != self.classes:
            raise ValueError(f"{len(self.label_names)} label names for {self.classes} classes")
        if len(set(self.label_names)) != len(self.label_names):
            raise ValueError(f"a label name is there twice: {self.label_names}")
        return self

    @property
    def row_text(self) -> str:
        return " x ".join(map(str, self.row_shape))

    def arrow_schema(self) -> pa.Schema:
        return schema(self.row_values, self.dtype)

    def encode(self, rows: CachedSplit, metadata: dict[str, Any]) -> bytes:
        return encode_shard(rows.ids, rows.row_hashes, rows.logits, metadata)

    def decode(self, table: pa.Table, count: int) -> CachedSplit:
        return decoded(table, count, self.row_shape)

    def whole(self, parts: Iterable[CachedSplit], count: int) -> CachedSplit:
        """The pieces in one float32 array, without a second copy in memory."""
        joined, start = CachedSplit.empty(count, self.row_shape), 0
        for part in parts:
            to = slice(start, start + len(part))
            joined.ids[to], joined.row_hashes[to], joined.logits[to] = part.ids, part.row_hashes, part.logits
            start += len(part)
        return joined

    def own_metadata(self) -> dict[str, Any]:
        return {"augmentation": self.augmentation.model_dump()} if self.augmentation else {}

    def fits(self, rows: int, values: Sequence[int]) -> bool:
        return list(values) == [rows, rows, rows * self.row_values]

    def memory(self, values: Sequence[int]) -> int:
        return values[0] * (16 + self.row_values * 4)

    def most_bytes(self, rows: int) -> int:
        return 2 * rows * (16 + self.row_values * np.dtype(self.dtype).itemsize) + (1 << 20)


class Manifest(Sealed, Header):
    """manifest.json, without the `checksum` that protects it."""


def schema(row_values: int, dtype: Dtype = "float32") -> pa.Schema:
    """Arrow schema of a shard: id, row_hash and logits (a fixed-size list of `row_values`), nothing nullable."""
    element = pa.field("element", pa.from_numpy_dtype(np.dtype(dtype)), nullable=False)
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("row_hash", pa.uint64(), nullable=False),
            pa.field("logits", pa.list_(element, row_values), nullable=False),
        ]
    )


def rows_per_group(row_values: int, dtype: Dtype = "float32", least: int = 1024) -> int:
    """Rows of a row group: the power of two whose logits take about 4 MiB, within [least, 65536]."""
    rows = GROUP_BYTES // (row_values * np.dtype(dtype).itemsize)
    return int(min(max(1 << max(rows.bit_length() - 1, 0), least), 65536))


def encode_shard(
    ids: np.ndarray, row_hashes: np.ndarray, logits: np.ndarray, metadata: dict[str, Any]
) -> bytes:
    """A shard's bytes; the same input gives the same bytes.

    Args:
        ids: int64 [n]. row_hashes: uint64 [n]. logits: float32 or float16 [n, K] or [n, V, K].
        metadata: see `parquet.shard_metadata`; `content`, the checksum of the three columns, is added to it.
    """
    metadata = {**metadata, "content": content_checksum(ids, row_hashes, logits)}
    row_values = math.prod(logits.shape[1:])
    dtype: Dtype = "float16" if logits.dtype == np.float16 else "float32"
    fields = schema(row_values, dtype)
    plain = logits.ndim == 2
    group_rows = rows_per_group(row_values, dtype) if plain else rows_per_group(row_values, dtype, least=1)
    values = pa.array(np.ascontiguousarray(logits).reshape(-1))
    columns = [
        pa.array(ids),
        pa.array(row_hashes),
        pa.FixedSizeListArray.from_arrays(values, type=fields.field("logits").type),
    ]
    encodings = {
        "id": "DELTA_BINARY_PACKED",
        "row_hash": "PLAIN",
        "logits.list.element": "BYTE_STREAM_SPLIT",
    }
    return parquet_bytes(columns, fields, metadata, group_rows, encodings)


def decoded(table: pa.Table, rows: int, row_shape: tuple[int, ...]) -> CachedSplit:
    """The rows of a table, as they are stored.

    Raises:
        ValueError: the table does not have `rows` rows of this shape.
    """
    values = table["logits"].combine_chunks().flatten().to_numpy()
    part = CachedSplit(table["id"].to_numpy(), table["row_hash"].to_numpy(), values.reshape(-1, *row_shape))
    if (
        part.ids.dtype != np.int64
        or part.row_hashes.dtype != np.uint64
        or part.logits.shape != (rows, *row_shape)
    ):
        raise ValueError("its columns are not what its footer says")
    return part
