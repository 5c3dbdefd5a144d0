"""The logit cache's format, version 1: what a shard and a manifest look like, and what is refused.

One place decides names, types, encodings and sizes; the writer and the reader only follow.
docs/cache-format.md describes the same for readers in other languages. Nothing is pickled or executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from kdcache.errors import CacheError, KdcacheError
from kdcache.hashing import fingerprint
from kdcache.hashing.digests import XXH3, Algorithm
from kdcache.system.files import read_json
from kdcache.system.quoting import quoted

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
METADATA_KEY = b"kdcache"  # key of the shard's own description in the Parquet footer
ROWS_PER_SHARD = 65536
MOST_VALUES = 2**31 - 1  # of a row: Arrow counts a list's elements in 32 bits
MOST_MANIFEST = 16 << 20  # bytes
MOST_SHARDS = 65536  # whose manifest is about 12 MB
GROUP_BYTES = 4 << 20  # aim for the logits of one row group: small enough to shuffle, big enough to read fast

Dtype = Literal["float32", "float16"]
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SHOWN = 5  # mistakes in one message
SHA256 = r"^[0-9a-f]{64}$"


class Record(BaseModel):
    """Base of the manifest's parts: exact types, no unknown keys, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Fingerprints(Record):
    """What the logits were computed from; a cache is used only where all four agree."""

    data: str
    weights: str
    preprocessing: str
    code: str


class Augmentation(Record):
    """How a cache's rows were augmented: each has `views`, whose seeds follow from `seed` (`views.view_seed`).

    `description` says what the transform is, for people; all three are part of the cache's identity.
    """

    views: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**63)
    description: str


class Cost(Record):
    """What computing the logits took."""

    seconds: FiniteFloat = Field(ge=0)
    rows_per_second: FiniteFloat = Field(ge=0)
    device: str
    peak_memory_mb: FiniteFloat | None = Field(default=None, ge=0)
    run: str = ""


class ShardInfo(Record):
    """One shard: its file relative to the cache, its rows, its size and its checksum."""

    file: str
    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=SHA256)


class SplitInfo(Record):
    """One split: its rows and its shards, in the order of writing."""

    rows: int = Field(ge=0)
    shards: list[ShardInfo]


class Header(Record):
    """What is fixed before the first row is written, and the same for every shard."""

    format_version: Literal[1] = 1
    classes: int = Field(ge=1)
    label_names: list[str]
    dtype: Dtype
    rows_per_shard: int = Field(ge=1)
    fingerprints: Fingerprints
    augmentation: Augmentation | None = None
    row_hash: Algorithm = XXH3  # of the row hashes; kdcache 0.1 did not say so

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row's logits: (K,), or (V, K) where each row has V views."""
        return (self.augmentation.views, self.classes) if self.augmentation else (self.classes,)

    @property
    def row_values(self) -> int:
        """How many logits a row has: K, or V K."""
        return math.prod(self.row_shape)

    @model_serializer(mode="wrap")
    def _without_what_older_caches_lack(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A cache without views says nothing of them, one with XXH3 hashes nothing of the hash: its bytes and its
        identity are those of before there were others."""
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


class Manifest(Header):
    """manifest.json, without the `checksum` that protects it."""

    splits: dict[str, SplitInfo] = Field(min_length=1)
    scores: dict[str, dict[str, FiniteFloat]] = Field(default_factory=dict)
    cost: Cost | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Fingerprint of everything that decides the logits: equal exactly when two caches hold the same."""
        content = self.model_dump(mode="json", exclude={"scores", "cost", "versions"})
        return fingerprint.of_json(content)

    @model_validator(mode="after")
    def _splits_fit(self) -> Self:
        check_shard_count(sum(len(split.shards) for split in self.splits.values()))
        for name, split in self.splits.items():
            _check_split(name, split, self.rows_per_shard)
        unknown = [name for name in self.scores if name not in self.splits]
        if unknown:
            raise ValueError(f"scores for a split that is not there: {unknown}")
        return self


def check_shard_count(count: int) -> None:
    """Refuse more shards than a manifest has room for.

    Raises:
        ValueError: says how many there may be.
    """
    if count > MOST_SHARDS:
        raise ValueError(f"{count:,} shards are more than {MOST_SHARDS:,}; make rows_per_shard larger")


def _check_split(name: str, split: SplitInfo, rows_per_shard: int) -> None:
    if not SPLIT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no split name (letters, digits, '-' and '_')")
    if split.rows != sum(shard.rows for shard in split.shards):
        raise ValueError(f"split {name!r} has {split.rows} rows, its shards have another number")
    for index, shard in enumerate(split.shards):
        if shard.file != shard_file(name, index):  # also keeps paths inside the cache
            raise ValueError(f"shard {index} of split {name!r} must be {shard_file(name, index)!r}")
        if shard.rows != min(rows_per_shard, split.rows - index * rows_per_shard):
            raise ValueError(f"{shard.file} has {shard.rows} rows, which does not fit rows_per_shard")


def shard_file(split: str, index: int) -> str:
    """Name of a shard relative to the cache; shard k holds the rows written at [k R, (k + 1) R)."""
    return f"{split}/part-{index:05d}.parquet"


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
    """Rows of a row group: the power of two whose logits come to about 4 MiB, within [least, 65536]."""
    wanted = GROUP_BYTES // (row_values * np.dtype(dtype).itemsize)
    return int(min(max(1 << max(wanted.bit_length() - 1, 0), least), 65536))


def shard_metadata(header: Header, split: str, index: int) -> dict[str, Any]:
    """What a shard says of itself in its Parquet footer, besides its content's checksum: whose and which it is."""
    found = {
        "format_version": header.format_version,
        "split": split,
        "shard": index,
        "rows_per_shard": header.rows_per_shard,
        "fingerprints": header.fingerprints.model_dump(),
    }
    if header.augmentation:
        found["augmentation"] = header.augmentation.model_dump()
    return found


def encode_shard(
    ids: np.ndarray, row_hashes: np.ndarray, logits: np.ndarray, metadata: dict[str, Any]
) -> bytes:
    """A shard's bytes; the same input gives the same bytes.

    Args:
        ids: int64 [n]. row_hashes: uint64 [n]. logits: float32 or float16 [n, K] or [n, V, K].
        metadata: see `shard_metadata`; `content`, the checksum of the three columns, is added to it.
    """
    metadata = {**metadata, "content": _content_checksum(ids, row_hashes, logits)}
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
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode()
    table = pa.Table.from_arrays(columns, schema=fields.with_metadata({METADATA_KEY: text}))
    out = pa.BufferOutputStream()
    pq.write_table(
        table,
        out,
        row_group_size=group_rows,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        write_statistics=False,
        column_encoding={
            "id": "DELTA_BINARY_PACKED",
            "row_hash": "PLAIN",
            "logits.list.element": "BYTE_STREAM_SPLIT",
        },
    )
    return bytes(out.getvalue())


def _content_checksum(*columns: np.ndarray) -> str:
    """sha256 of the columns' values, little-endian, one column after the other."""
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def open_shard(
    source: bytes | Path, path: Path, manifest: Manifest, split: str, index: int
) -> pq.ParquetFile:
    """Open a shard, from its bytes or its file, and check that it is the shard the manifest means.

    Raises:
        CacheError: no Parquet file, other columns or types, other rows, or another cache's or place's shard.
    """
    rows = manifest.splits[split].shards[index].rows
    return parse_shard(source, path, manifest, split, index, rows)


def parse_shard(
    source: bytes | Path, path: Path, header: Header, split: str, index: int, rows: int
) -> pq.ParquetFile:
    """Like `open_shard`, for a shard that should have this place and number of rows in a cache being written."""
    try:
        file = pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)
        found_schema, found_rows = file.schema_arrow, file.metadata.num_rows
        found = json.loads((found_schema.metadata or {}).get(METADATA_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise CacheError(
            f"{path}: is no whole Parquet file ({error!s:.300}); cache the logits again"
        ) from error
    expected_schema = schema(header.row_values, header.dtype)
    if not found_schema.equals(expected_schema):
        columns = ", ".join(f"{field.name} {field.type}" for field in found_schema)
        wanted = ", ".join(f"{field.name} {field.type}" for field in expected_schema)
        raise CacheError(
            f"{path}: expected the columns {wanted}; found {columns:.300}; cache the logits again"
        )
    if found_rows != rows:
        raise CacheError(f"{path}: expected {rows} rows, found {found_rows}; cache the logits again")
    expected = shard_metadata(header, split, index)
    keys = [*expected, "augmentation"]  # which must not be there where none is expected
    actual = found if isinstance(found, dict) else {}
    differing = [key for key in keys if actual.get(key) != expected.get(key)]
    if differing:
        wanted = ", ".join(f"{key} {quoted(expected.get(key))}" for key in differing)
        given = ", ".join(f"{key} {quoted(actual.get(key))}" for key in differing)
        raise CacheError(
            f"{path}: is not the shard that the manifest means; expected {wanted}; found {given}; "
            "cache the logits again"
        )
    return file


def sha256(data: bytes) -> str:
    """Checksum of a shard's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """The object of manifest.json: the manifest and, last, a checksum over all of it."""
    content = manifest.model_dump(mode="json")
    return {**content, "checksum": fingerprint.of_json(content)}


def load_manifest(folder: Path) -> Manifest:
    """Read and check a cache's manifest.

    Raises:
        CacheError: the folder or the manifest is missing (the cache is incomplete), it is of another format
            version, it was edited or damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        what = f"there is no {MANIFEST}, so the cache is incomplete" if folder.is_dir() else "no such folder"
        raise CacheError(f"{folder}: {what}; cache the logits first (again, if that was interrupted)")
    try:
        raw = read_json(path, MOST_MANIFEST)
        _check_version(path, raw)
        checksum = raw.pop("checksum", None)
        found = fingerprint.of_json(raw)
    except CacheError:
        raise
    except KdcacheError as error:
        raise CacheError(str(error)) from error
    if checksum != found:
        raise CacheError(
            f"{path}: was edited or damaged: its checksum says {checksum!r:.80}, its content gives {found}; "
            "restore it or cache the logits again"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        raise CacheError(
            f"{path}: is no manifest of format version {FORMAT_VERSION}: {_problems(error)}"
        ) from None


def _problems(error: ValidationError) -> str:
    """The first few mistakes, each cut to a line."""
    mistakes = error.errors(include_input=False, include_url=False)
    shown = [f"{'.'.join(map(str, e['loc'])) or 'top'}: {e['msg']}"[:200] for e in mistakes[:SHOWN]]
    return "; ".join(shown) + (f"; and {len(mistakes) - SHOWN:,} more" if len(mistakes) > SHOWN else "")


def _check_version(path: Path, raw: Any) -> None:
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if type(version) is not int or version < 1:
        raise CacheError(
            f"{path}: is no logit cache's manifest: expected format_version {FORMAT_VERSION}, "
            f"found {version!r:.80}"
        )
    if version > FORMAT_VERSION:
        raise CacheError(
            f"{path}: expected format version {FORMAT_VERSION}, found the newer {version!r:.80}; update kdcache"
        )


def shard_content(path: Path) -> str:
    """The checksum of a shard's columns that its footer has: equal when two shards hold the same rows and logits.

    Raises:
        CacheError: the file is no shard of a logit cache.
    """
    try:
        footer = json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"null"))
        return str(footer["content"])
    except (pa.ArrowException, OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CacheError(
            f"{path}: has no footer of a logit cache ({error}); cache the logits again"
        ) from None
