"""Read a logit cache: check what it is, then give logits by row id, never another row's.

Opening reads the manifest and looks at the files' sizes. Values are read when they are first asked for: a whole
split into memory (`logits`, `split`), or row group by row group (`read_group`, `stream`) where a split is larger
than memory. A shard's checksum is compared with the manifest's before any of its values is used.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

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

if TYPE_CHECKING:
    from kdcache.logits.stream import LogitStream
from kdcache.logits.disk import (
    CachedSplit,
    Group,
    ShardFile,
    ShardFooter,
    decoded,
    refuse_duplicates,
    rows_of_groups,
    sorted_by_id,
)


@dataclass(frozen=True)
class Verification:
    """What `LogitCache.verify` looked at and found to be whole."""

    level: Literal["quick", "full"]
    shards: int
    rows: int
    bytes: int


class LogitCache:
    """A complete logit cache, open for reading.

    Args:
        path: the cache's folder.
        expect: the fingerprints of the data, weights, preprocessing and code that the logits must come from;
            None accepts any.

    Raises:
        CacheError: the cache is incomplete, damaged, of another format version, or not the one expected. The
            same error comes from the methods, when a damaged shard is met later.
    """

    def __init__(self, path: str | Path, expect: Fingerprints | None = None) -> None:
        self.path = Path(path)
        self.manifest: Manifest = load_manifest(self.path)
        self._files: dict[str, ShardFile] = {}
        self._loaded: dict[str, _Loaded] = {}
        for _, _, shard in self._shards():
            self._file(shard)
        if expect is not None:
            self._check_fingerprints(expect)

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: without what they can read again; checksums that were compared stay so."""
        files = {name: replace(file, footer=None) for name, file in self._files.items()}
        return {**self.__dict__, "_files": files, "_loaded": {}}

    @property
    def identity(self) -> str:
        """Fingerprint of everything that decides the logits (not of scores, cost and versions)."""
        return self.manifest.identity

    @property
    def splits(self) -> list[str]:
        """The names of the splits, in the order of writing."""
        return list(self.manifest.splits)

    @property
    def views(self) -> int | None:
        """V, the augmented views of each row; None where the logits are of the rows as they are."""
        return self.manifest.augmentation.views if self.manifest.augmentation else None

    def logits(
        self, split: str, ids: Any, row_hashes: Any | None = None, view: Any | None = None
    ) -> np.ndarray:
        """The logits of the asked rows, in the asked order. The split is read into memory the first time.

        Args:
            split: e.g. "train".
            ids: integers [n], in any order, repeats allowed; all must be in the cache. Arrays, lists, tensors.
            row_hashes: uint64 [n], the hashes of the rows the caller has under these ids; checked when given.
                int64 counts as the same 64 bits (data sets and tensors often have no uint64).
            view: for a cache with views: which one, an integer for all rows or one for each [n]. None: all.

        Returns:
            float32 [n, K], a copy; of a cache with views, when none is named, [n, V, K].

        Raises:
            CacheError: an id is not in the cache, a row is not the one whose logits were cached, or there is no such
                view.
        """
        loaded = self._load_once(split)
        ids = self._integers("ids", ids)
        positions = self._positions(split, loaded, ids)
        if row_hashes is not None:
            self._check_hashes(split, ids, row_hashes, loaded.rows.row_hashes.take(positions))
        if view is None:
            gathered: np.ndarray = loaded.rows.logits.take(positions, axis=0)
            return gathered
        chosen: np.ndarray = loaded.rows.logits[positions, self._checked_views(view, len(ids))]
        return chosen

    def row_ids_of(self, split: str, row_hashes: Any) -> np.ndarray:
        """The ids of the rows with these contents, for data that were shuffled or filtered and lost their ids.

        Args:
            split: e.g. "train".
            row_hashes: uint64 [n] (or the same bits as int64), in any order, repeats allowed.

        Returns:
            int64 [n]. Where several rows have the same content, the lowest of their ids.

        Raises:
            CacheError: a hash is not in the cache.
        """
        loaded = self._load_once(split)
        wanted = self._integers("row hashes", row_hashes).astype(np.uint64)
        hashes, ids = loaded.by_hash
        positions = np.searchsorted(hashes, wanted)  # the first of equals, which has the lowest id
        missing = np.ones(len(wanted), dtype=bool)
        inside = positions < len(hashes)
        missing[inside] = hashes[positions[inside]] != wanted[inside]
        if missing.any():
            raise CacheError(
                f"{self.path}: split {split!r} has no row with the hash {int(wanted[missing][0]):016x} (position "
                f"{int(np.argmax(missing))}) and {int(missing.sum()) - 1} more of the {len(wanted)} asked rows; "
                "the content differs from what was cached: check the columns, or cache the logits of this data"
            )
        return ids[positions]

    def split(self, name: str) -> CachedSplit:
        """A whole split in memory, sorted by id; read once, then kept."""
        return self._load_once(name).rows

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
                table = parquet.read_row_group(group.group, use_threads=False)
            part = decoded(table, group.rows, self.manifest.row_shape)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise CacheError(f"{path}: cannot be decoded ({error}); cache the logits again") from error
        if not np.isfinite(part.logits).all():
            raise CacheError(f"{path}: has logits that are not finite; cache the logits again")
        if self._file(shard) is not file:
            raise CacheError(
                f"{path}: was changed while it was read; try again when nothing writes to the cache"
            )
        return part

    def stream(
        self,
        split: str,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = 0,
        buffer_groups: int = 4,
        drop_last: bool = False,
    ) -> LogitStream:
        """Batches of a split in bounded memory, shuffled and shared out over processes; see `LogitStream`."""
        from kdcache.logits.stream import LogitStream

        return LogitStream(
            self,
            split,
            batch_size,
            rank=rank,
            world_size=world_size,
            seed=seed,
            buffer_groups=buffer_groups,
            drop_last=drop_last,
        )

    def join(
        self,
        data: Any,
        split: str = "train",
        *,
        column: str = "teacher_logits",
        id_column: str = "id",
        hash_column: str | None = "row_hash",
        columns: Sequence[str] | None = None,
        label: str | None = None,
        view: int | None = None,
    ) -> Any:
        """The data (a `datasets.Dataset` or a loader of batches) with its rows' logits; see `join.join`."""
        from kdcache.logits.join import join

        return join(
            self,
            data,
            split,
            column=column,
            id_column=id_column,
            hash_column=hash_column,
            columns=columns,
            label=label,
            view=view,
        )

    def check_view(self, view: Any) -> None:
        """Refuse a view that is not there, and any view of a cache that has none.

        Raises:
            CacheError: says which there are.
        """
        self._checked_views(view, 1)

    def require_plain(self, doing: str) -> None:
        """Refuse a cache with views, where the logits must be of the rows as they are.

        Raises:
            CacheError: `doing`, such as "an ensemble", takes no views.
        """
        if self.views is not None:
            raise CacheError(
                f"{self.path}: {doing} takes logits of the rows as they are, but this cache has {self.views} augmented "
                "views of each; cache the logits without augmentation for it"
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
        shards = list(self._shards())
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

    def info(self) -> dict[str, Any]:
        """The cache's facts as one JSON-like object, for people and scripts."""
        manifest = self.manifest
        rows = sum(split.rows for split in manifest.splits.values())
        size = sum(shard.bytes for _, _, shard in self._shards())
        return {
            "path": str(self.path),
            "identity": self.identity,
            "format_version": manifest.format_version,
            "classes": manifest.classes,
            "label_names": manifest.label_names,
            "dtype": manifest.dtype,
            "augmentation": manifest.augmentation.model_dump() if manifest.augmentation else None,
            "rows": {name: split.rows for name, split in manifest.splits.items()},
            "shards": {name: len(split.shards) for name, split in manifest.splits.items()},
            "bytes": size,
            "bytes_per_row": round(size / rows, 2) if rows else None,
            "fingerprints": manifest.fingerprints.model_dump(),
            "scores": manifest.scores,
            "cost": manifest.cost.model_dump() if manifest.cost else None,
            "versions": manifest.versions,
        }

    def _shards(self) -> Iterator[tuple[str, int, ShardInfo]]:
        for name, split in self.manifest.splits.items():
            for index, shard in enumerate(split.shards):
                yield name, index, shard

    def _split_info(self, name: str) -> SplitInfo:
        if name not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
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
                raise CacheError(f"{path}: cannot be decoded ({error}); cache the logits again") from error
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

    def _load_once(self, name: str) -> _Loaded:
        if name not in self._loaded:
            self._loaded[name] = _Loaded(self._load(name))
        return self._loaded[name]

    def _load(self, name: str) -> CachedSplit:
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

    def _integers(self, what: str, values: Any) -> np.ndarray:
        """Arrays, lists and tensors as an array of integers [n]."""
        try:
            array: np.ndarray = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
        except (TypeError, ValueError) as error:
            raise CacheError(f"{self.path}: {what} must be integers [n]: {error}") from error
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise CacheError(
                f"{self.path}: {what} must be integers [n], found {array.dtype} {list(array.shape)}"
            )
        return array

    def _checked_views(self, view: Any, rows: int) -> np.ndarray:
        """The view of each row, integers [] or [rows]."""
        if self.views is None:
            raise CacheError(
                f"{self.path}: has no views, its logits are of the rows as they are; leave out view={view!r:.80}"
            )
        views: np.ndarray = np.asarray(view.cpu() if hasattr(view, "cpu") else view)
        if views.shape not in ((), (rows,)) or (views.size and views.dtype.kind not in "iu"):
            raise CacheError(
                f"{self.path}: expected one view, or one for each of the {rows} rows, found {views.dtype} "
                f"{list(views.shape)}"
            )
        wrong = (views < 0) | (views >= self.views)
        if wrong.any():
            raise CacheError(
                f"{self.path}: no view {views[wrong].flat[0]} in this cache, which has {self.views} of each row "
                f"(0 to {self.views - 1})"
            )
        return views

    def _positions(self, split: str, loaded: _Loaded, asked: np.ndarray) -> np.ndarray:
        ids, known = asked.astype(np.int64), loaded.rows.ids
        if loaded.dense:
            if not ids.size or int(ids.view(np.uint64).max()) < len(known):  # negative ids are huge there
                return ids
            missing = (ids < 0) | (ids >= len(known))
        else:
            positions = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            missing = known[positions] != ids if len(known) else np.ones(len(ids), dtype=bool)
            if not missing.any():
                return positions
        raise CacheError(
            f"{self.path}: split {split!r} has no logits for row id {asked[missing][0]} and "
            f"{int(missing.sum()) - 1} more of the {len(ids)} asked rows; cache the logits of this data"
        )

    def _check_hashes(self, split: str, ids: np.ndarray, row_hashes: Any, found: np.ndarray) -> None:
        expected = self._integers("row hashes", row_hashes)
        if expected.shape != ids.shape:
            raise CacheError(
                f"{self.path}: expected {len(ids)} row hashes (uint64), found {expected.dtype} "
                f"{list(expected.shape)}"
            )
        expected = expected.astype(np.uint64, copy=False)
        different = expected != found
        if different.any():
            self._refuse_rows(split, ids, expected, found, different)

    def _refuse_rows(
        self, split: str, ids: np.ndarray, expected: np.ndarray, found: np.ndarray, different: np.ndarray
    ) -> NoReturn:
        first = int(np.argmax(different))
        raise CacheError(
            f"{self.path}: split {split!r}, row id {ids[first]}: the logits were cached for another row: "
            f"expected row hash {int(expected[first]):016x}, found {int(found[first]):016x} "
            f"({int(different.sum())} of {len(ids)} asked rows differ); the data changed or its ids were "
            "shuffled, cache the logits again"
        )


class _Loaded:
    """A split in memory, and what makes asking it fast."""

    def __init__(self, rows: CachedSplit) -> None:
        self.rows = rows
        ids = rows.ids  # sorted and distinct: when they are 0 .. N-1, an id is a position
        self.dense = len(ids) > 0 and int(ids[0]) == 0 and int(ids[-1]) == len(ids) - 1

    @cached_property
    def by_hash(self) -> tuple[np.ndarray, np.ndarray]:
        """(row hashes sorted, their ids); among equal hashes, ids rise."""
        order = np.argsort(self.rows.row_hashes, kind="stable")
        return self.rows.row_hashes[order], self.rows.ids[order]
