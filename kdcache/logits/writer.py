"""Write a logit cache: rows in any number of batches, whole shards on disk, the manifest last.

Shard k of a split holds the rows written at positions [k R, (k + 1) R) with R = `rows_per_shard`, whatever
the batches were, so the same rows in the same order give the same bytes.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np

from kdcache.errors import CacheError, KdcacheError
from kdcache.files import TEMPORARY_SUFFIX, remove, write_atomically, write_json
from kdcache.logits.format import (
    MANIFEST,
    ROWS_PER_SHARD,
    SPLIT_NAME,
    Cost,
    Dtype,
    Fingerprints,
    Manifest,
    ShardInfo,
    SplitInfo,
    check_label_names,
    encode_shard,
    manifest_json,
    sha256,
    shard_file,
    shard_metadata,
)

BITMAP_IDS = 1 << 28  # ids below this are tracked in a bitmap, the (unusual) others in a set
PACKAGES = ("kdcache", "numpy", "pyarrow", "torch", "transformers")


class LogitWriter:
    """Writes one cache; a context manager.

    An existing cache at `path` is removed on entry, its manifest first: until `finish` has written the new
    manifest, the folder counts as incomplete and no reader accepts it.

        with LogitWriter(path, classes=2, label_names=["no", "yes"], fingerprints=fingerprints) as writer:
            for batch in batches:
                writer.write("train", batch.ids, batch.row_hashes, logits)
            writer.finish(scores={"train": {"accuracy": 0.98}})

    Args:
        path: the cache's folder, made when missing.
        classes: K, the columns of the logits (1 for a regression).
        label_names: the K names in order, or none for a regression.
        fingerprints: what the logits are computed from.
        rows_per_shard: rows of every shard but a split's last; decides the bytes, not the values.
        dtype: "float32", or "float16" to round to half the size.

    Raises:
        CacheError: from every method, when the input is not usable or the disk refuses.
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
    ) -> None:
        self.path = Path(path)
        if classes < 1 or rows_per_shard < 1:
            raise CacheError(
                f"{self.path}: classes and rows_per_shard must be 1 or more, "
                f"found {classes} and {rows_per_shard}"
            )
        if dtype not in get_args(Dtype):
            raise CacheError(
                f"{self.path}: dtype must be one of {', '.join(get_args(Dtype))}, found {dtype!r}"
            )
        try:
            check_label_names(list(label_names), classes)
        except ValueError as error:
            raise CacheError(f"{self.path}: {error}") from None
        self._draft = Manifest.model_construct(
            classes=classes,
            label_names=list(label_names),
            dtype=dtype,
            rows_per_shard=rows_per_shard,
            fingerprints=fingerprints,
        )
        self._splits: dict[str, _OpenSplit] = {}
        self._state = "new"

    def __enter__(self) -> Self:
        if self._state != "new":
            raise CacheError(f"{self.path}: a LogitWriter writes one cache; make another one")
        with _as_cache_errors():
            _clear(self.path)
        self._state = "open"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unfinished, self._state = self._state == "open", "closed"
        self._splits.clear()
        if unfinished and kind is None:
            raise CacheError(
                f"{self.path}: finish() was not called, so the cache is incomplete; "
                "call it last in the `with` block"
            )

    def write(self, split: str, ids: Any, row_hashes: Any, logits: Any) -> None:
        """Append rows to a split; full shards go to disk at once.

        Args:
            split: its name, e.g. "train".
            ids: integers [n], 0 or more, each once per split.
            row_hashes: uint64 [n], see `kdcache.fingerprint.row_hash`.
            logits: float32 or float16 [n, K], raw (un-tempered) and finite.
        """
        self._require_open()
        where = f"{self.path}: split {split!r}"
        if not SPLIT_NAME.fullmatch(split):
            raise CacheError(f"{where}: a split's name has letters, digits, '-' and '_' only")
        rows = _checked_rows(where, ids, row_hashes, logits, self._draft)
        if split not in self._splits:
            self._splits[split] = _OpenSplit(self._draft)
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
        content = self._draft.model_dump(exclude={"splits", "scores", "cost", "versions"})
        content["splits"] = {
            name: SplitInfo(rows=s.rows, shards=s.shards) for name, s in self._splits.items()
        }
        try:
            content["scores"] = {
                name: {metric: float(value) for metric, value in values.items()}
                for name, values in (scores or {}).items()
            }
            manifest = Manifest.model_validate({**content, "cost": cost, "versions": _versions()})
        except (TypeError, ValueError) as error:
            raise CacheError(f"{self.path}: the manifest cannot be written: {error}") from None
        with _as_cache_errors():
            write_json(self.path / MANIFEST, manifest_json(manifest))
        self._state = "finished"
        return manifest

    def _require_open(self) -> None:
        if self._state != "open":
            raise CacheError(
                f"{self.path}: the writer is {self._state}; write and finish inside its `with` block"
            )

    def _write_shard(self, split: str, state: _OpenSplit) -> None:
        index = len(state.shards)
        rows = state.drain()
        data = encode_shard(rows.ids, rows.row_hashes, rows.logits, shard_metadata(self._draft, split, index))
        file = shard_file(split, index)
        self._state = "broken by an earlier error"  # unless the shard gets written, rows would be missing
        with _as_cache_errors():
            write_atomically(self.path / file, data)
        self._state = "open"
        info = ShardInfo(file=file, rows=len(rows.ids), bytes=len(data), sha256=sha256(data))
        state.shards.append(info)


@dataclass
class _Rows:
    ids: np.ndarray  # int64 [n]
    row_hashes: np.ndarray  # uint64 [n]
    logits: np.ndarray  # the cache's dtype [n, K]


class _OpenSplit:
    """A split being written: one shard's rows in memory, the facts of the shards already on disk."""

    def __init__(self, draft: Manifest) -> None:
        size = draft.rows_per_shard
        self._buffer = _Rows(
            np.empty(size, np.int64), np.empty(size, np.uint64), np.empty((size, draft.classes), draft.dtype)
        )
        self.filled = 0
        self.shards: list[ShardInfo] = []
        self.seen = _SeenIds()

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards) + self.filled

    @property
    def full(self) -> bool:
        return self.filled == len(self._buffer.ids)

    def take(self, rows: _Rows, start: int) -> int:
        """Copy rows from `start` on, as many as the shard has room for; returns how many."""
        count = min(len(rows.ids) - start, len(self._buffer.ids) - self.filled)
        here, there = slice(self.filled, self.filled + count), slice(start, start + count)
        self._buffer.ids[here] = rows.ids[there]
        self._buffer.row_hashes[here] = rows.row_hashes[there]
        self._buffer.logits[here] = rows.logits[there]
        self.filled += count
        return count

    def drain(self) -> _Rows:
        """The buffered rows (valid until the next `take`); the buffer counts as empty from here on."""
        count, self.filled = self.filled, 0
        buffer = self._buffer
        return _Rows(buffer.ids[:count], buffer.row_hashes[:count], buffer.logits[:count])


@dataclass
class _SeenIds:
    """The ids of a split so far: a bitmap, since ids are row positions, and a set for very large ones."""

    bitmap: np.ndarray = field(default_factory=lambda: np.zeros(1024, dtype=bool))
    large: set[int] = field(default_factory=set)

    def add(self, ids: np.ndarray) -> int | None:
        """Remember the ids, or return one that is there already, or twice among them (then none is added)."""
        distinct, counts = np.unique(ids, return_counts=True)
        if len(distinct) != len(ids):
            return int(distinct[counts > 1][0])
        small = distinct[distinct < BITMAP_IDS]
        large = distinct[len(small) :].tolist()
        self._grow(int(small[-1]) + 1 if len(small) else 0)
        known = small[self.bitmap[small]].tolist() + [value for value in large if value in self.large]
        if known:
            return int(known[0])
        self.bitmap[small] = True
        self.large.update(large)
        return None

    def _grow(self, size: int) -> None:
        if size > len(self.bitmap):
            bitmap = np.zeros(min(2 * size, BITMAP_IDS), dtype=bool)
            bitmap[: len(self.bitmap)] = self.bitmap
            self.bitmap = bitmap


def _checked_rows(where: str, ids: Any, row_hashes: Any, logits: Any, draft: Manifest) -> _Rows:
    ids = _checked_ids(where, ids)
    row_hashes = _checked_hashes(where, row_hashes)
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] != draft.classes:
        raise CacheError(
            f"{where}: expected logits [n, {draft.classes}], found the shape {list(logits.shape)}"
        )
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
        stored = logits.astype(draft.dtype, copy=False)
    if not np.isfinite(stored).all():
        row = int(np.argmin(np.isfinite(stored).all(axis=1)))
        raise CacheError(
            f"{where}: row id {ids[row]} has the logits {logits[row].tolist()[:8]}, which are not all "
            f"finite in {draft.dtype}; check the model and its precision"
        )
    return _Rows(ids, row_hashes, stored)


def _checked_ids(where: str, values: Any) -> np.ndarray:
    ids: np.ndarray = np.asarray(values)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise CacheError(f"{where}: ids must be integers [n], found {ids.dtype} {list(ids.shape)}")
    if ids.size and (ids.min() < 0 or ids.max() > np.iinfo(np.int64).max):
        raise CacheError(f"{where}: an id must be from 0 to 2^63 - 1, found {ids.min()} to {ids.max()}")
    return ids.astype(np.int64, copy=False)


def _checked_hashes(where: str, values: Any) -> np.ndarray:
    hashes: np.ndarray = np.asarray(values)
    unsigned = hashes.dtype.kind == "u" or (hashes.dtype.kind == "i" and not (hashes < 0).any())
    if hashes.ndim != 1 or (hashes.size and not unsigned):
        raise CacheError(f"{where}: row hashes must be uint64 [n], found {hashes.dtype} {list(hashes.shape)}")
    return hashes.astype(np.uint64, copy=False)


@contextmanager
def _as_cache_errors() -> Iterator[None]:
    try:
        yield
    except KdcacheError as error:
        raise CacheError(f"{error}; the logit cache is incomplete") from error


def _clear(folder: Path) -> None:
    """Remove an earlier cache: manifest first, then shards and temporary files; nothing else."""
    if folder.exists() and not folder.is_dir():
        raise KdcacheError(f"{folder}: is a file; a logit cache is a folder, choose another path")
    remove(folder / MANIFEST)
    stale = [*folder.glob(f".{MANIFEST}.*{TEMPORARY_SUFFIX}")]
    stale += [*folder.glob("*/part-*.parquet"), *folder.glob(f"*/.part-*{TEMPORARY_SUFFIX}")]
    for file in stale:
        remove(file)
    for parent in {file.parent for file in stale} - {folder}:
        if not any(parent.iterdir()):
            parent.rmdir()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
