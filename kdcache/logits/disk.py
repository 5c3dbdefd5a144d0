"""A cache's shards on disk, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kdcache.errors import CacheError
from kdcache.logits.format import (
    Manifest,
    ShardInfo,
)

if TYPE_CHECKING:
    pass


# Zstandard makes at most 128 KiB of 4 bytes (a run of one value): a footer that promises more lies.
MOST_COMPRESSION = 1 << 16


@dataclass(frozen=True)
class CachedSplit:
    """Rows of one split in memory: a whole one (`LogitCache.split`, sorted by id, read-only) or a part of it."""

    ids: np.ndarray  # int64 [N]
    row_hashes: np.ndarray  # uint64 [N]
    logits: np.ndarray  # float32 [N, K], or [N, V, K] with V views


@dataclass(frozen=True)
class Group:
    """One row group of a split: the piece that is read at once, some MiB."""

    split: str
    shard: int  # its number in the split
    group: int  # its number in the shard
    rows: int


@dataclass
class ShardFooter:
    """A shard's Parquet footer, checked."""

    metadata: Any  # pyarrow.parquet.FileMetaData
    rows: list[int]  # of each row group


@dataclass
class ShardFile:
    """What is known of a shard's file, as long as its stamp stays the same."""

    stamp: tuple[int, ...]
    footer: ShardFooter | None = None
    whole: bool = False  # its checksum was compared


def rows_of_groups(path: Path, shard: ShardInfo, metadata: Any, manifest: Manifest) -> list[int]:
    """Rows of each row group, if the footer's numbers fit each other, the manifest and the file's size."""
    rows = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        values = [group.column(column).num_values for column in range(group.num_columns)]
        if group.num_rows < 0 or values != [
            group.num_rows,
            group.num_rows,
            group.num_rows * manifest.row_values,
        ]:
            raise CacheError(
                f"{path}: row group {number} says that it has {group.num_rows} rows, its columns have {values} "
                "values; cache the logits again"
            )
        rows.append(group.num_rows)
    if sum(rows) != shard.rows:
        raise CacheError(
            f"{path}: expected {shard.rows} rows, its row groups have {sum(rows)}; cache the logits again"
        )
    size = shard.rows * (16 + manifest.row_values * np.dtype(manifest.dtype).itemsize)
    if size > MOST_COMPRESSION * shard.bytes:
        raise CacheError(
            f"{path}: {shard.bytes} bytes cannot hold {shard.rows} rows x {manifest.row_values}; "
            "cache the logits again"
        )
    return rows


def decoded(table: pa.Table, rows: int, row_shape: tuple[int, ...]) -> CachedSplit:
    values = table["logits"].combine_chunks().flatten().to_numpy()
    logits = values.reshape(-1, *row_shape).astype(np.float32, copy=False)
    part = CachedSplit(table["id"].to_numpy(), table["row_hash"].to_numpy(), logits)
    if (
        part.ids.dtype != np.int64
        or part.row_hashes.dtype != np.uint64
        or part.logits.shape != (rows, *row_shape)
    ):
        raise ValueError("its columns are not what its footer says")
    return _read_only(part)


def _read_only(rows: CachedSplit) -> CachedSplit:
    for array in (rows.ids, rows.row_hashes, rows.logits):
        array.flags.writeable = False
    return rows


def sorted_by_id(path: Path, split: str, rows: CachedSplit) -> CachedSplit:
    if not (rows.ids[1:] > rows.ids[:-1]).all():
        order = np.argsort(rows.ids, kind="stable")
        rows = CachedSplit(rows.ids[order], rows.row_hashes[order], rows.logits[order])
        refuse_duplicates(path, split, rows.ids)
    return _read_only(rows)


def refuse_duplicates(path: Path, split: str, ids: np.ndarray) -> None:
    """Refuse ids [N], sorted, of which two are equal."""
    same = np.flatnonzero(ids[1:] == ids[:-1])
    if len(same):
        raise CacheError(f"{path}: split {split!r} has row id {ids[same[0]]} twice; cache the logits again")
