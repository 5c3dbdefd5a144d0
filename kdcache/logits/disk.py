"""A cache's shards on disk, read and checked."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import CacheError, KdcacheError
from kdcache.hashing import fingerprint
from kdcache.logits.manifests import load_manifest
from kdcache.logits.parquet import open_shard
from kdcache.logits.records import MANIFEST, Fingerprints, Sealed, ShardInfo, SplitInfo
from kdcache.logits.rows import Rows

M = TypeVar("M", bound=Sealed)
R = TypeVar("R", bound=Rows)

# Zstandard expands 4 bytes to at most 128 KiB (a run of one value). A footer that promises more is false.
MOST_COMPRESSION = 1 << 16
# A row group that is larger than this, and too large for its file, would break the promise of bounded memory.
GROUP_BYTES, GROUP_COMPRESSION = 64 << 20, 16


@dataclass(frozen=True)
class Group:
    """One row group of a split: the unit of reading, a few MiB."""

    split: str
    shard: int  # its number in the split
    group: int  # its number in the shard
    rows: int


@dataclass
class ShardFooter:
    """A shard's Parquet footer, checked."""

    metadata: Any  # pyarrow.parquet.FileMetaData
    rows: list[int]  # the rows of each row group


@dataclass
class ShardFile:
    """What is known about a shard's file; valid while the file's stamp stays the same."""

    stamp: tuple[int, ...]
    footer: ShardFooter | None = None
    is_verified: bool = False  # its checksum was compared with the manifest's


@dataclass(frozen=True)
class Verification:
    """What `LogitCache.verify` checked and found whole."""

    level: Literal["quick", "full"]
    shards: int
    rows: int
    bytes: int


class ShardedCache(Generic[M, R]):
    """A complete cache's shards on disk and their row groups, each checked before it is used.

    Args:
        path: the cache's folder.
        sort: the manifest's class, which knows how rows (R) are stored in the shards.
        expect: the fingerprints that the logits must come from; None accepts any.

    Raises:
        CacheError: the cache is incomplete, damaged, of another format version, or not the expected cache.
    """

    def __init__(self, path: Path, sort: type[M], expect: Fingerprints | None = None) -> None:
        self.path = path
        self.manifest: M = load_manifest(path, sort)
        self._files: dict[str, ShardFile] = {}
        for _, _, shard in self.shards():
            self._file(shard)
        if expect is not None:
            self._check_fingerprints(expect)

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: without data that they can read again. Shards that were verified stay so."""
        files = {name: replace(file, footer=None) for name, file in self._files.items()}
        return {**self.__dict__, "_files": files}

    @property
    def identity(self) -> str:
        return self.manifest.identity

    def groups(self, split: str) -> list[Group]:
        """The row groups of a split, in the order of writing. Reads the shards' footers once and keeps them."""
        shards = self._split_info(split).shards
        return [
            Group(split, index, number, rows)
            for index in range(len(shards))
            for number, rows in enumerate(self._footer(split, index).rows)
            if rows
        ]

    def read_group(self, group: Group) -> R:
        """The rows of one row group, in the order of writing, read-only. No other rows of the split are in memory.

        The first call for a shard reads its whole file, in pieces, to compare its checksum.
        """
        with self._reading(group) as table:
            part: Any = self.manifest.decode(table, group.rows).as_read().read_only()
        fault = part.fault()
        if fault:
            raise CacheError(
                f"{self.path / self._checked_shard(group).file}: {fault}; cache the logits again"
            )
        return cast("R", part)

    def read_ids(self, group: Group) -> np.ndarray:
        """The ids of one row group, int64 [n], in the order of writing."""
        with self._reading(group, ["id"]) as table:
            ids: np.ndarray = table["id"].to_numpy()
            if ids.dtype != np.int64 or len(ids) != group.rows:
                raise ValueError("its ids are not what its footer says")
        return ids

    @contextmanager
    def _reading(self, group: Group, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """A row group as it is stored, from a checked shard. Decoding errors inside the context become CacheErrors."""
        shard = self._checked_shard(group)
        path, file = self.path / shard.file, self._file(shard)
        footer = self._footer(group.split, group.shard)
        if not file.is_verified:
            self._compare_checksum(shard)
        if not group.group < len(footer.rows) or footer.rows[group.group] != group.rows:
            raise CacheError(
                f"{path}: has no row group {group.group} of {group.rows} rows; ask `groups` again"
            )
        try:
            # Without Arrow's I/O threads: handing one row group over to them takes longer than reading it.
            with pq.ParquetFile(path, metadata=footer.metadata, pre_buffer=False) as parquet:
                yield parquet.read_row_group(group.group, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise CacheError(f"{path}: cannot be decoded ({error!s:.300}); cache the logits again") from error
        if self._file(shard) is not file:
            raise CacheError(
                f"{path}: was changed while it was read; try again when nothing writes to the cache"
            )

    def verify(self, level: Literal["quick", "full"] = "quick") -> Verification:
        """Look for damage, even in files that were checked before. Uses 8 bytes of memory per row of a split.

        Args:
            level: "quick" reads every shard's footer: columns, types, rows, and which cache the shard belongs to.
                "full" also recomputes all checksums and reads every value.

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
        """(split, number in the split, shard) of every shard."""
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
        """What is known about a shard's file. If the file has changed since, the record is empty."""
        stamp = self._stamp(shard)
        known = self._files.get(shard.file)
        if known is None or known.stamp != stamp:
            known = self._files[shard.file] = ShardFile(stamp)
        return known

    def _stamp(self, shard: ShardInfo) -> tuple[int, ...]:
        """A cheap stamp that changes when the file does. A link to a file counts as the file."""
        path = self.path / shard.file
        try:
            status = path.stat()
        except FileNotFoundError:
            raise CacheError(f"{path}: the shard is missing; restore it or cache the logits again") from None
        except OSError as error:
            raise CacheError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device may never end
            raise CacheError(f"{path}: is no regular file; restore it or cache the logits again")
        if status.st_size != shard.bytes:
            raise CacheError(
                f"{path}: expected {shard.bytes} bytes, found {status.st_size}: truncated or replaced; "
                "restore it or cache the logits again"
            )
        return status.st_mtime_ns, status.st_size, status.st_dev, status.st_ino

    def _compare_checksum(self, shard: ShardInfo) -> None:
        path, file = self.path / shard.file, self._file(shard)
        try:
            checksum = fingerprint.of_file(path)
        except KdcacheError as error:
            raise CacheError(str(error)) from error
        if checksum != shard.sha256:
            raise CacheError(
                f"{path}: is damaged: expected the checksum {shard.sha256}, found {checksum}; "
                "restore it or cache the logits again"
            )
        file.is_verified = True

    def _footer(self, split: str, index: int) -> ShardFooter:
        shard = self.manifest.splits[split].shards[index]
        path, file = self.path / shard.file, self._file(shard)
        if file.footer is None:
            try:
                with open_shard(path, path, self.manifest, split, index, shard.rows) as parquet:
                    rows = rows_of_groups(path, shard, parquet.metadata, self.manifest)
                    file.footer = ShardFooter(parquet.metadata, rows)
            except (ArithmeticError, LookupError, MemoryError) as error:
                raise CacheError(
                    f"{path}: cannot be decoded ({error!s:.300}); cache the logits again"
                ) from error
        return file.footer

    def _check_fingerprints(self, expect: Fingerprints) -> None:
        expected, actual = expect.model_dump(), self.manifest.fingerprints.model_dump()
        different = [name for name in expected if expected[name] != actual[name]]
        if different:
            values = "; ".join(
                f"{name}: expected {expected[name]}, found {actual[name]}" for name in different
            )
            raise CacheError(
                f"{self.path / MANIFEST}: these logits are of another {' and '.join(different)} ({values}); "
                "cache the logits again"
            )

    def load(self, name: str) -> R:
        """A whole split in memory, sorted by id, read-only."""
        for shard in self._split_info(name).shards:
            self._compare_checksum(shard)  # before the footers are parsed, and memory is allocated
        groups = self.groups(name)
        parts = (self.read_group(group) for group in groups)
        with self._enough_memory(name):
            rows: Any = self.manifest.whole(parts, self.manifest.splits[name].rows)
        return cast("R", sorted_by_id(self.path, name, rows))

    @contextmanager
    def _enough_memory(self, name: str) -> Iterator[None]:
        try:
            yield
        except (MemoryError, ValueError) as error:
            raise CacheError(
                f"{self.path}: split {name!r} with its {self.manifest.splits[name].rows} rows x "
                f"{self.manifest.row_text} does not fit in memory ({error}); `stream` reads it in pieces"
            ) from error

    def _verify_values(self, name: str) -> None:
        with self._enough_memory(name):
            ids = np.empty(self.manifest.splits[name].rows, np.int64)
        start = 0
        for group in self.groups(name):
            ids[start : start + group.rows] = self.read_group(group).ids
            start += group.rows
        ids.sort()
        refuse_duplicates(self.path, name, ids)


def rows_of_groups(path: Path, shard: ShardInfo, metadata: Any, manifest: Sealed) -> list[int]:
    """The number of rows of each row group.

    Raises:
        CacheError: the footer's numbers contradict each other, the manifest or the file's size.
    """
    rows, size = [], 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        values = [group.column(column).num_values for column in range(group.num_columns)]
        if group.num_rows < 0 or not manifest.fits(group.num_rows, values):
            raise CacheError(
                f"{path}: row group {number} says that it has {group.num_rows} rows, its columns have "
                f"{str(values)[:200]} values; cache the logits again"
            )
        rows.append((group.num_rows, manifest.memory(values)))
        size += rows[-1][1]
    if sum(count for count, _ in rows) != shard.rows:
        raise CacheError(
            f"{path}: expected {shard.rows} rows, its row groups have {sum(count for count, _ in rows)}; "
            "cache the logits again"
        )
    if size > MOST_COMPRESSION * shard.bytes:
        raise CacheError(
            f"{path}: {shard.bytes} bytes cannot hold {shard.rows} rows x {manifest.row_text}; "
            "cache the logits again"
        )
    for number, (_, taken) in enumerate(rows):
        _check_group_size(path, number, taken, shard)
    return [count for count, _ in rows]


def _check_group_size(path: Path, number: int, size: int, shard: ShardInfo) -> None:
    if size > GROUP_BYTES and size > GROUP_COMPRESSION * shard.bytes:
        raise CacheError(
            f"{path}: row group {number} takes {size:,} bytes of memory, too many for a file of {shard.bytes:,}; "
            "write the shard with smaller row groups, or cache the logits again"
        )


def sorted_by_id(path: Path, split: str, rows: R) -> R:
    """The rows in ascending order of their ids, read-only. A repeated id is refused."""
    if not (rows.ids[1:] > rows.ids[:-1]).all():
        rows = rows.part(np.argsort(rows.ids, kind="stable"))
        refuse_duplicates(path, split, rows.ids)
    return rows.read_only()


def refuse_duplicates(path: Path, split: str, ids: np.ndarray) -> None:
    """Refuse sorted ids [N] if two are equal."""
    same = np.flatnonzero(ids[1:] == ids[:-1])
    if len(same):
        raise CacheError(f"{path}: split {split!r} has row id {ids[same[0]]} twice; cache the logits again")
