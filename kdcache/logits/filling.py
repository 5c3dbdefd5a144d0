"""Write any kind of cache row by row: whole shards go to disk, the manifest comes last."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Generic, Self, TypeVar

from kdcache.errors import CacheError
from kdcache.logits.clearing import clear, refuse_finished
from kdcache.logits.records import SPLIT_NAME, Cost, Layout, Sealed, ShardInfo, SplitInfo, check_shard_count
from kdcache.logits.rows import Rows
from kdcache.logits.seen import SeenIds
from kdcache.logits.shards import check_in_place, exclusive, store_manifest, store_shard, stored_shard
from kdcache.system.locks import FolderLock

M = TypeVar("M", bound=Sealed)
R = TypeVar("R", bound=Rows)


class Buffer(ABC, Generic[R]):
    """Room for the rows of one shard."""

    def __init__(self, size: int) -> None:
        self.size, self.filled = size, 0

    @property
    def full(self) -> bool:
        return self.filled == self.size

    def take(self, rows: R) -> int:
        """Copy as many of the first rows as there is room for. Return how many."""
        count = min(len(rows), self.size - self.filled)
        self.put(rows.part(slice(0, count)))
        self.filled += count
        return count

    def drain(self) -> R:
        """Return the rows (valid until the next `take`) and count the buffer as empty."""
        rows = self.rows()
        self.filled = 0
        return rows

    @abstractmethod
    def put(self, rows: R) -> None:
        """Copy rows after the `filled` ones. The caller has made sure that they fit."""

    @abstractmethod
    def rows(self) -> R:
        """The `filled` rows."""


class RowWriter(ABC, Generic[M, R]):
    """Base of the writers, a context manager: one cache's folder, its lock and its splits."""

    replaces: ClassVar[bool] = False  # whether entering removes a finished cache; else the folder is refused

    def __init__(self, path: Path, sort: type[M], header: Layout, resume: bool) -> None:
        self.path = path
        self._sort, self._header, self._resume = sort, header, resume
        self._splits: dict[str, _OpenSplit[R]] = {}
        self._state = "new"
        self._held = ExitStack()
        self._lock: FolderLock | None = None

    @abstractmethod
    def _buffer(self) -> Buffer[R]:
        """A new buffer for one shard's rows."""

    def __enter__(self) -> Self:
        if self._state != "new":
            raise CacheError(f"{self.path}: a {type(self).__name__} writes one cache; make another one")
        with ExitStack() as held:
            self._lock = held.enter_context(exclusive(self.path))
            if not self.replaces:
                refuse_finished(self.path)
            if self._resume:
                self._keep_stored_shards()
            kept = [shard.file for split in self._splits.values() for shard in split.shards]
            clear(self.path, kept)
            self._held = held.pop_all()
        self._state = "open"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unfinished, self._state = self._state == "open", "closed"
        self._splits.clear()
        self._held.close()
        if unfinished and kind is None:
            raise CacheError(
                f"{self.path}: finish() was not called, so the cache is incomplete; "
                "call it last in the `with` block"
            )

    def _keep_stored_shards(self) -> None:
        """Keep the stored shards of each split, up to the first shard that is missing or damaged."""
        for folder in sorted(path for path in self.path.iterdir() if not path.is_symlink()):
            split = _OpenSplit(self._buffer())
            while stored := stored_shard(
                self.path, self._header, folder.name, len(split.shards), self._header.rows_per_shard
            ):
                split.keep(*stored)
            if split.shards:
                self._splits[folder.name] = split

    def written(self, split: str) -> int:
        """How many rows the split has so far, including those of an interrupted run: the next row's position."""
        return self._splits[split].rows if split in self._splits else 0

    def _add(self, split: str, rows: R) -> None:
        """Append rows to a split. Full shards go to disk at once."""
        context = f"{self.path}: split {split!r}"
        if split not in self._splits:
            self._splits[split] = _OpenSplit(self._buffer())
        state = self._splits[split]
        duplicate = state.seen.add(rows.ids)
        if duplicate is not None:
            raise CacheError(
                f"{context}: id {duplicate} was written twice; each row's logits belong to one id"
            )
        done = 0
        while done < len(rows.ids):
            done += state.buffer.take(rows.part(slice(done, None)))
            if state.buffer.full:
                self._write_shard(split, state)

    def _require_split_name(self, split: str) -> None:
        if not SPLIT_NAME.fullmatch(split):
            raise CacheError(
                f"{self.path}: split {split!r}: a split's name has letters, digits, '-' and '_' only"
            )

    def finish(self, scores: Mapping[str, Mapping[str, float]] | None = None, cost: Cost | None = None) -> M:
        """Write the last shards, then the manifest, which makes the cache complete.

        Args:
            scores: the model's score per split and metric, e.g. {"validation": {"accuracy": 0.91}}.
            cost: what computing the logits took.
        """
        self._require_open()
        for split, state in self._splits.items():
            if state.buffer.filled:
                self._write_shard(split, state)
        check_in_place(self._lock)
        splits = {name: SplitInfo(rows=s.rows, shards=s.shards) for name, s in self._splits.items()}
        manifest = store_manifest(self.path, self._sort, self._header, splits, scores, cost)
        self._state = "finished"
        return manifest

    def _require_open(self) -> None:
        if self._state != "open":
            raise CacheError(
                f"{self.path}: the writer is {self._state}; write and finish inside its `with` block"
            )

    def _write_shard(self, split: str, state: _OpenSplit[R]) -> None:
        self._state = "broken by an earlier error"  # stays so if writing fails, because rows would be missing
        check_in_place(self._lock)
        try:
            check_shard_count(sum(len(open_split.shards) for open_split in self._splits.values()) + 1)
        except ValueError as error:
            raise CacheError(f"{self.path}: {error}") from None
        state.shards.append(
            store_shard(self.path, self._header, split, len(state.shards), state.buffer.drain())
        )
        self._state = "open"


class _OpenSplit(Generic[R]):
    """A split being written: one shard's rows in memory, and the facts of the shards on disk."""

    def __init__(self, buffer: Buffer[R]) -> None:
        self.buffer = buffer
        self.shards: list[ShardInfo] = []
        self.seen = SeenIds()

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards) + self.buffer.filled

    def keep(self, shard: ShardInfo, rows: R) -> None:
        """Count a shard from an earlier run as written."""
        self.seen.add(rows.ids)
        self.shards.append(shard)
