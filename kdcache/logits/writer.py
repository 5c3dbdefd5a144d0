"""Write a logit cache row by row: any number of batches, whole shards on disk, the manifest last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from kdcache.errors import CacheError
from kdcache.hashing.digests import BLAKE2B, Algorithm
from kdcache.logits.clearing import clear
from kdcache.logits.format import (
    ROWS_PER_SHARD,
    SPLIT_NAME,
    Augmentation,
    Cost,
    Dtype,
    Fingerprints,
    Header,
    Manifest,
    ShardInfo,
    SplitInfo,
    check_shard_count,
)
from kdcache.logits.seen import SeenIds
from kdcache.logits.shards import (
    Rows,
    check_in_place,
    checked_header,
    exclusive,
    store_manifest,
    store_shard,
    stored_shard,
)
from kdcache.system.files import user_path
from kdcache.system.locks import FolderLock


class LogitWriter:
    """Writes one cache; a context manager.

    An existing cache at `path` is removed on entry, its manifest first: until `finish` has written the new
    manifest, the folder counts as incomplete and no reader accepts it. Two writers never share a folder.

        with LogitWriter(path, classes=2, label_names=["no", "yes"], fingerprints=fingerprints) as writer:
            for batch in batches:
                writer.write("train", batch.ids, batch.row_hashes, logits)
            writer.finish(scores={"train": {"accuracy": 0.98}})

    With `resume`, whole shards that an interrupted run with the same options left behind are kept. Ask
    `written(split)` how many rows that are, and write the rows after those: the same rows in the same order, for
    only the caller knows them. The cache then has the same bytes as an uninterrupted run's.

    Args:
        path: the cache's folder, made when missing.
        classes: K, the columns of the logits (1 for a regression).
        label_names: the K names in order, or none for a regression.
        fingerprints: what the logits are computed from.
        rows_per_shard: rows of every shard but a split's last; decides the bytes, not the values.
        dtype: "float32", or "float16" to round to half the size.
        resume: keep what an interrupted run with these options left.
        augmentation: the logits are of V augmented views of each row; None: of the row as it is.

    Raises:
        CacheError: from every method, when the input is not usable, another process writes this cache, or the disk
            refuses.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        classes: int,
        label_names: Sequence[str],
        fingerprints: Fingerprints,
        rows_per_shard: int = ROWS_PER_SHARD,
        dtype: Dtype = "float32",
        resume: bool = False,
        augmentation: Augmentation | None = None,
        row_hash: Algorithm = BLAKE2B,
    ) -> None:
        self.path = user_path(path)
        self._header = checked_header(
            self.path,
            classes=classes,
            label_names=list(label_names),
            dtype=dtype,
            rows_per_shard=rows_per_shard,
            fingerprints=fingerprints,
            augmentation=augmentation,
            row_hash=row_hash,
        )
        self._resume = resume
        self._splits: dict[str, _OpenSplit] = {}
        self._state = "new"
        self._held = ExitStack()
        self._lock: FolderLock | None = None

    def __enter__(self) -> Self:
        if self._state != "new":
            raise CacheError(f"{self.path}: a LogitWriter writes one cache; make another one")
        with ExitStack() as held:
            self._lock = held.enter_context(exclusive(self.path))
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
        """Take over the whole shards from the start of each split, up to the first that is missing or damaged."""
        for folder in sorted(path for path in self.path.iterdir() if not path.is_symlink()):
            split = _OpenSplit(self._header)
            while found := stored_shard(
                self.path, self._header, folder.name, len(split.shards), self._header.rows_per_shard
            ):
                split.keep(*found)
            if split.shards:
                self._splits[folder.name] = split

    def written(self, split: str) -> int:
        """Rows that `write` has taken or an interrupted run left in whole shards: the next row's position."""
        return self._splits[split].rows if split in self._splits else 0

    def write(self, split: str, ids: Any, row_hashes: Any, logits: Any) -> None:
        """Append rows to a split; full shards go to disk at once.

        Args:
            split: its name, e.g. "train".
            ids: integers [n], 0 or more, each once per split.
            row_hashes: uint64 [n], see `kdcache.hashing.rows.row_hash`.
            logits: float32 or float16 [n, K] ([n, V, K] with an augmentation), raw (un-tempered) and finite.
        """
        self._require_open()
        where = f"{self.path}: split {split!r}"
        if not SPLIT_NAME.fullmatch(split):
            raise CacheError(f"{where}: a split's name has letters, digits, '-' and '_' only")
        rows = checked_rows(where, ids, row_hashes, logits, self._header)
        if split not in self._splits:
            self._splits[split] = _OpenSplit(self._header)
        state = self._splits[split]
        duplicate = state.seen.add(rows.ids)
        if duplicate is not None:
            raise CacheError(f"{where}: id {duplicate} was written twice; each row's logits belong to one id")
        done = 0
        while done < len(rows.ids):
            done += state.take(rows, done)
            if state.full:
                self._write_shard(split, state)

    def finish(
        self, scores: Mapping[str, Mapping[str, float]] | None = None, cost: Cost | None = None
    ) -> Manifest:
        """Write the last shards, then the manifest: from here on the cache is complete.

        Args:
            scores: the model's score per split and metric, e.g. {"validation": {"accuracy": 0.91}}.
            cost: what computing the logits took.
        """
        self._require_open()
        for split, state in self._splits.items():
            if state.filled:
                self._write_shard(split, state)
        check_in_place(self._lock)
        splits = {name: SplitInfo(rows=s.rows, shards=s.shards) for name, s in self._splits.items()}
        manifest = store_manifest(self.path, self._header, splits, scores, cost)
        self._state = "finished"
        return manifest

    def _require_open(self) -> None:
        if self._state != "open":
            raise CacheError(
                f"{self.path}: the writer is {self._state}; write and finish inside its `with` block"
            )

    def _write_shard(self, split: str, state: _OpenSplit) -> None:
        self._state = "broken by an earlier error"  # unless the shard gets written, rows would be missing
        check_in_place(self._lock)
        try:
            check_shard_count(sum(len(one.shards) for one in self._splits.values()) + 1)
        except ValueError as error:
            raise CacheError(f"{self.path}: {error}") from None
        state.shards.append(store_shard(self.path, self._header, split, len(state.shards), state.drain()))
        self._state = "open"


class _OpenSplit:
    """A split being written: one shard's rows in memory, the facts of the shards already on disk."""

    def __init__(self, header: Header) -> None:
        size = header.rows_per_shard
        self._buffer = Rows(
            np.empty(size, np.int64),
            np.empty(size, np.uint64),
            np.empty((size, *header.row_shape), header.dtype),
        )
        self.filled = 0
        self.shards: list[ShardInfo] = []
        self.seen = SeenIds()

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards) + self.filled

    @property
    def full(self) -> bool:
        return self.filled == len(self._buffer.ids)

    def keep(self, shard: ShardInfo, rows: Rows) -> None:
        """Count a shard that is on disk already as written."""
        self.seen.add(rows.ids)
        self.shards.append(shard)

    def take(self, rows: Rows, start: int) -> int:
        """Copy rows from `start` on, as many as the shard has room for; returns how many."""
        count = min(len(rows.ids) - start, len(self._buffer.ids) - self.filled)
        here, there = slice(self.filled, self.filled + count), slice(start, start + count)
        self._buffer.ids[here] = rows.ids[there]
        self._buffer.row_hashes[here] = rows.row_hashes[there]
        self._buffer.logits[here] = rows.logits[there]
        self.filled += count
        return count

    def drain(self) -> Rows:
        """The buffered rows (valid until the next `take`); the buffer counts as empty from here on."""
        count, self.filled = self.filled, 0
        buffer = self._buffer
        return Rows(buffer.ids[:count], buffer.row_hashes[:count], buffer.logits[:count])


def checked_rows(where: str, ids: Any, row_hashes: Any, logits: Any, header: Header) -> Rows:
    """Rows as they are stored.

    Raises:
        CacheError: wrong shapes or types, negative ids, logits that are not finite; the message begins with `where`.
    """
    ids = _checked_ids(where, ids)
    row_hashes = _checked_hashes(where, row_hashes)
    logits = _as_array(where, "logits", logits)
    if logits.shape[1:] != header.row_shape:
        wanted = ", ".join(map(str, header.row_shape))
        raise CacheError(f"{where}: expected logits [n, {wanted}], found the shape {list(logits.shape)}")
    if not len(ids) == len(row_hashes) == len(logits):
        raise CacheError(
            f"{where}: {len(ids)} ids, {len(row_hashes)} row hashes and {len(logits)} rows of logits "
            "do not match"
        )
    if logits.dtype not in (np.float32, np.float16):
        raise CacheError(
            f"{where}: expected float32 or float16 logits, found {logits.dtype}; convert them, e.g. .float()"
        )
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is refused below
        stored = logits.astype(header.dtype, copy=False)
    if not np.isfinite(stored).all():
        row = int(np.argmin(np.isfinite(stored).reshape(len(stored), -1).all(axis=1)))
        raise CacheError(
            f"{where}: row id {ids[row]} has the logits {logits[row].reshape(-1).tolist()[:8]}, which are not all "
            f"finite in {header.dtype}; check the model and its precision"
        )
    return Rows(ids, row_hashes, stored)


def _as_array(where: str, what: str, values: Any) -> np.ndarray:
    """Arrays, lists and tensors (on any device, with a gradient, in bfloat16) as an array."""
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = values.float() if str(values.dtype) == "torch.bfloat16" else values  # exact
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CacheError(f"{where}: {what} cannot be taken as an array: {error}") from None


def _checked_ids(where: str, values: Any) -> np.ndarray:
    ids = _as_array(where, "ids", values)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise CacheError(f"{where}: ids must be integers [n], found {ids.dtype} {list(ids.shape)}")
    if ids.size and (ids.min() < 0 or ids.max() > np.iinfo(np.int64).max):
        raise CacheError(f"{where}: an id must be from 0 to 2^63 - 1, found {ids.min()} to {ids.max()}")
    return ids.astype(np.int64, copy=False)


def _checked_hashes(where: str, values: Any) -> np.ndarray:
    hashes = _as_array(where, "row hashes", values)
    unsigned = hashes.dtype.kind == "u" or (hashes.dtype.kind == "i" and not (hashes < 0).any())
    if hashes.ndim != 1 or (hashes.size and not unsigned):
        raise CacheError(f"{where}: row hashes must be uint64 [n], found {hashes.dtype} {list(hashes.shape)}")
    return hashes.astype(np.uint64, copy=False)
