"""A cache's shards on disk, read and checked."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import CacheError, KdcacheError
from kdcache.hashing import fingerprint
from kdcache.logits.format import (
    MANIFEST,
    Fingerprints,
    Manifest,
    ShardInfo,
    SplitInfo,
    load_manifest,
    open_shard,
)

# Zstandard makes at most 128 KiB of 4 bytes (a run of one value): a footer that promises more lies.
MOST_COMPRESSION = 1 << 16
# A row group that is larger, and that its file is too small for, would break the promise of bounded memory.
GROUP_BYTES, GROUP_COMPRESSION = 64 << 20, 16


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


@dataclass(frozen=True)
class Verification:
    """What `LogitCache.verify` looked at and found to be whole."""

    level: Literal["quick", "full"]
    shards: int
    rows: int
    bytes: int


class ShardedCache:
    """A complete cache's shards on disk: which there are, and their row groups, each checked before it is used.

    Args:
        path: the cache's folder.
        expect: the fingerprints that the logits must come from; None accepts any.

    Raises:
        CacheError: the cache is incomplete, damaged, of another format version, or not the one expected.
    """

    def __init__(self, path: Path, expect: Fingerprints | None = None) -> None:
        self.path = path
        self.manifest: Manifest = load_manifest(path)
        self._files: dict[str, ShardFile] = {}
        for _, _, shard in self.shards():
            self._file(shard)
        if expect is not None:
            self._check_fingerprints(expect)

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: without what they can read again; checksums that were compared stay so."""
        files = {name: replace(file, footer=None) for name, file in self._files.items()}
        return {**self.__dict__, "_files": files}

    @property
    def identity(self) -> str:
        return self.manifest.identity

    def groups(self, split: str) -> list[Group]:
        """The row groups of a split, in the order of writing; reads the shards' footers, and keeps them."""
        shards = self._split_info(split).shards
        return [
            Group(split, index, number, rows)
            for index in range(len(shards))
            for number, rows in enumerate(self._footer(split, index).rows)
            if rows
        ]

    def read_group(self, group: Group) -> CachedSplit:
        """One row group, in the order of writing, read-only; nothing more of the split is held in memory.

        The first call for a shard reads its whole file, in pieces, to compare its checksum.
        """
        path = self.path / self._checked_shard(group).file
        with self._reading(group) as table:
            part = decoded(table, group.rows, self.manifest.row_shape)
        if not np.isfinite(part.logits).all():
            raise CacheError(f"{path}: has logits that are not finite; cache the logits again")
        if (part.ids < 0).any():
            raise CacheError(
                f"{path}: has the row id {part.ids.min()}; ids are 0 or more; cache the logits again"
            )
        return part

    def read_ids(self, group: Group) -> np.ndarray:
        """The ids of one row group, int64 [n], in the order of writing."""
        with self._reading(group, ["id"]) as table:
            ids: np.ndarray = table["id"].to_numpy()
            if ids.dtype != np.int64 or len(ids) != group.rows:
                raise ValueError("its ids are not what its footer says")
        return ids

    @contextmanager
    def _reading(self, group: Group, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """A row group of a whole shard as it is stored, to be decoded within."""
        shard = self._checked_shard(group)
        path, file = self.path / shard.file, self._file(shard)
        footer = self._footer(group.split, group.shard)
        if not file.whole:
            self._compare_checksum(shard)
        if not group.group < len(footer.rows) or footer.rows[group.group] != group.rows:
            raise CacheError(
                f"{path}: has no row group {group.group} of {group.rows} rows; ask `groups` again"
            )
        try:
            # Not through Arrow's I/O threads: a row group is read at once, and handing it over takes longer.
            with pq.ParquetFile(path, metadata=footer.metadata, pre_buffer=False) as parquet:
                yield parquet.read_row_group(group.group, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise CacheError(f"{path}: cannot be decoded ({error!s:.300}); cache the logits again") from error
        if self._file(shard) is not file:
            raise CacheError(
                f"{path}: was changed while it was read; try again when nothing writes to the cache"
            )

    def verify(self, level: Literal["quick", "full"] = "quick") -> Verification:
        """Look for damage, whatever was looked at before; in bounded memory (8 bytes per row of a split).

        Args:
            level: "quick" reads every shard's footer: columns, types, rows, and whose shard it is. "full"
                also recomputes all checksums and reads every value.

        Raises:
            CacheError: at the first damage found.
        """
        if level not in ("quick", "full"):
            raise CacheError(f"{self.path}: no verification level {level!r}; there are quick and full")
        self._files.clear()
        shards = list(self.shards())
        for split, index, shard in shards:
            if level == "full":
                self._compare_checksum(shard)
            self._footer(split, index)
        if level == "full":
            for split in self.manifest.splits:
                self._verify_values(split)
        return Verification(
            level, len(shards), sum(s.rows for _, _, s in shards), sum(s.bytes for _, _, s in shards)
        )

    def shards(self) -> Iterator[tuple[str, int, ShardInfo]]:
        """Every shard with its split and its number there."""
        for name, split in self.manifest.splits.items():
            for index, shard in enumerate(split.shards):
                yield name, index, shard

    def _split_info(self, name: str) -> SplitInfo:
        if name not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)[:300]
            raise CacheError(f"{self.path}: no split {name!r} in this cache (there are: {known})")
        return self.manifest.splits[name]

    def _checked_shard(self, group: Group) -> ShardInfo:
        shards = self._split_info(group.split).shards
        if not 0 <= group.shard < len(shards) or group.group < 0:
            raise CacheError(
                f"{self.path}: split {group.split!r} has {len(shards)} shards, no row group {group}"
            )
        return shards[group.shard]

    def _file(self, shard: ShardInfo) -> ShardFile:
        """What is known of a shard's file; nothing, if it was changed since."""
        stamp = self._stamp(shard)
        known = self._files.get(shard.file)
        if known is None or known.stamp != stamp:
            known = self._files[shard.file] = ShardFile(stamp)
        return known

    def _stamp(self, shard: ShardInfo) -> tuple[int, ...]:
        """Tells one state of a file from another, cheaply. A link to a file is as good as the file."""
        path = self.path / shard.file
        try:
            found = path.stat()
        except FileNotFoundError:
            raise CacheError(f"{path}: the shard is missing; restore it or cache the logits again") from None
        except OSError as error:
            raise CacheError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not stat.S_ISREG(found.st_mode):  # a pipe would block, a device may never end
            raise CacheError(f"{path}: is no regular file; restore it or cache the logits again")
        if found.st_size != shard.bytes:
            raise CacheError(
                f"{path}: expected {shard.bytes} bytes, found {found.st_size}: truncated or replaced; "
                "restore it or cache the logits again"
            )
        return found.st_mtime_ns, found.st_size, found.st_dev, found.st_ino

    def _compare_checksum(self, shard: ShardInfo) -> None:
        path, file = self.path / shard.file, self._file(shard)
        try:
            found = fingerprint.of_file(path)
        except KdcacheError as error:
            raise CacheError(str(error)) from error
        if found != shard.sha256:
            raise CacheError(
                f"{path}: is damaged: expected the checksum {shard.sha256}, found {found}; "
                "restore it or cache the logits again"
            )
        file.whole = True

    def _footer(self, split: str, index: int) -> ShardFooter:
        shard = self.manifest.splits[split].shards[index]
        path, file = self.path / shard.file, self._file(shard)
        if file.footer is None:
            try:
                with open_shard(path, path, self.manifest, split, index) as parquet:
                    rows = rows_of_groups(path, shard, parquet.metadata, self.manifest)
                    file.footer = ShardFooter(parquet.metadata, rows)
            except (ArithmeticError, LookupError, MemoryError) as error:
                raise CacheError(
                    f"{path}: cannot be decoded ({error!s:.300}); cache the logits again"
                ) from error
        return file.footer

    def _check_fingerprints(self, expect: Fingerprints) -> None:
        expected, found = expect.model_dump(), self.manifest.fingerprints.model_dump()
        different = [name for name in expected if expected[name] != found[name]]
        if different:
            values = "; ".join(
                f"{name}: expected {expected[name]}, found {found[name]}" for name in different
            )
            raise CacheError(
                f"{self.path / MANIFEST}: these logits are of another {' and '.join(different)} ({values}); "
                "cache the logits again"
            )

    def load(self, name: str) -> CachedSplit:
        """A whole split in memory, sorted by id, read-only."""
        for shard in self._split_info(name).shards:
            self._compare_checksum(shard)  # before the footers are parsed, and memory is asked for
        groups = self.groups(name)
        logits = self._empty(name, np.float32, *self.manifest.row_shape)
        whole = CachedSplit(self._empty(name, np.int64), self._empty(name, np.uint64), logits)
        start = 0
        for group in groups:
            part, to = self.read_group(group), slice(start, start + group.rows)
            whole.ids[to], whole.row_hashes[to], whole.logits[to] = part.ids, part.row_hashes, part.logits
            start += group.rows
        return sorted_by_id(self.path, name, whole)

    def _empty(self, name: str, dtype: type[np.generic], *columns: int) -> np.ndarray:
        """Room for a value, or for some columns of them, per row of the split."""
        rows, shape = self.manifest.splits[name].rows, " x ".join(map(str, self.manifest.row_shape))
        try:
            return np.empty((rows, *columns), dtype)
        except (MemoryError, ValueError) as error:
            raise CacheError(
                f"{self.path}: split {name!r} with its {rows} rows x {shape} does not fit in "
                f"memory ({error}); `stream` reads it in pieces"
            ) from error

    def _verify_values(self, name: str) -> None:
        ids = self._empty(name, np.int64)
        start = 0
        for group in self.groups(name):
            ids[start : start + group.rows] = self.read_group(group).ids
            start += group.rows
        ids.sort()
        refuse_duplicates(self.path, name, ids)


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
                f"{path}: row group {number} says that it has {group.num_rows} rows, its columns have "
                f"{str(values)[:200]} values; cache the logits again"
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
    for number, count in enumerate(rows):
        _check_group_size(path, number, count, shard, manifest)
    return rows


def _check_group_size(path: Path, number: int, rows: int, shard: ShardInfo, manifest: Manifest) -> None:
    size = rows * (16 + manifest.row_values * 4)
    if size > GROUP_BYTES and size > GROUP_COMPRESSION * shard.bytes:
        raise CacheError(
            f"{path}: row group {number} takes {size:,} bytes of memory, too many for a file of {shard.bytes:,}; "
            "write the shard with smaller row groups, or cache the logits again"
        )


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
