"""A cache's files while it is written: store a shard, recognise a shard of an earlier run, write the manifest.

`LogitWriter` and `write_logits` are built on this. Shard k of a split holds the rows at positions [k R, (k + 1) R)
with R = `rows_per_shard`, and the same rows give the same bytes. So the shards of an interrupted run can be kept, and
processes can write different shards of one cache without talking to each other.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from kdcache.errors import CacheError, KdcacheError
from kdcache.logits.cost import write_cost
from kdcache.logits.manifests import checksum_of, manifest_json
from kdcache.logits.parquet import open_shard, sha256, shard_metadata
from kdcache.logits.records import MANIFEST, Cost, Layout, Sealed, ShardInfo, SplitInfo, shard_file
from kdcache.logits.rows import Rows
from kdcache.system.files import read_regular, write_atomically, write_json
from kdcache.system.locks import FolderLock

H = TypeVar("H", bound=Layout)
M = TypeVar("M", bound=Sealed)
# What reading a damaged shard may raise.
UNREADABLE = (
    KdcacheError, OSError, pa.ArrowException, ValueError, ArithmeticError, LookupError, MemoryError
)  # fmt: skip
PACKAGES = ("kdcache", "numpy", "pyarrow", "torch", "transformers")


def checked_header(folder: Path, sort: type[H], **values: Any) -> H:
    """The header of a cache to be written.

    Raises:
        CacheError: the options cannot be used for a cache. The message has every mistake.
    """
    try:
        header = sort.model_validate(values)
    except ValidationError as error:
        mistakes = "; ".join(_mistake(item) for item in error.errors())
        raise CacheError(f"{folder}: {mistakes}") from None
    checksum_of(str(folder), header.model_dump(mode="json"))  # every text must be one that UTF-8 can hold
    return header


def _mistake(error: Any) -> str:
    key, reason = ".".join(map(str, error["loc"])), str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {reason}, found {error['input']!r}" if key else reason


def store_shard(folder: Path, header: Layout, split: str, index: int, rows: Rows) -> ShardInfo:
    """Write one whole shard, atomically."""
    data = header.encode(rows, shard_metadata(header, split, index))
    file = shard_file(split, index)
    if (folder / split).is_symlink():
        raise CacheError(
            f"{folder / split}: is a link, which leads out of the cache; remove it, nothing was written"
        )
    with as_cache_errors():
        write_atomically(folder / file, data)
    return ShardInfo(file=file, rows=len(rows), bytes=len(data), sha256=sha256(data))


def stored_shard(
    folder: Path, header: Layout, split: str, index: int, count: int
) -> tuple[ShardInfo, Any] | None:
    """The shard that an interrupted run left at this place, or None if it differs from what would be written now.

    Its values are decoded and encoded again. Its footer has a checksum of the values, so equal bytes prove that the
    shard is whole, has these fingerprints, and comes from this version of the encoder.
    """
    file = shard_file(split, index)
    path = folder / file
    try:
        data = read_regular(path, min(header.most_bytes(count), path.stat().st_size))
        rows: Any = header.decode(open_shard(data, path, header, split, index, count).read(), count)
        encoded = header.encode(rows, shard_metadata(header, split, index))
    except UNREADABLE:
        return None
    if encoded != data:
        return None
    return ShardInfo(file=file, rows=count, bytes=len(data), sha256=sha256(data)), rows


def stored_rows(
    folder: Path, header: Layout, split: str, index: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]] | None:
    """The ids and row hashes [count] of a shard, or None if it cannot be read. Only these two columns are read."""
    path = folder / shard_file(split, index)
    if not path.is_file():  # a pipe would block
        return None
    try:
        with open_shard(path, path, header, split, index, count) as shard:
            table = shard.read(columns=["id", "row_hash"], use_threads=False)
    except UNREADABLE:
        return None
    return table["id"].to_numpy(), table["row_hash"].to_numpy()


def store_manifest(
    folder: Path,
    sort: type[M],
    header: Layout,
    splits: Mapping[str, SplitInfo],
    scores: Mapping[str, Mapping[str, float]] | None,
    cost: Cost | None,
) -> M:
    """Write the manifest, which makes the cache complete.

    Raises:
        CacheError: a score is not finite or is for a split that does not exist, or the manifest cannot be written.
    """
    try:
        numbers = {
            name: {metric: float(value) for metric, value in values.items()}
            for name, values in (scores or {}).items()
        }
        manifest = sort(
            **dict(header),
            splits=dict(splits),
            scores=numbers,
            versions=_versions(),
        )
    except (TypeError, ValueError) as error:
        raise CacheError(f"{folder}: the manifest cannot be written: {error}") from None
    _check_shards(folder, manifest)
    with as_cache_errors():
        write_json(folder / MANIFEST, manifest_json(manifest))
        write_cost(folder, cost)
    return manifest


def _check_shards(folder: Path, manifest: Sealed) -> None:
    """Refuse to write a manifest if a shard was removed or changed since it was written."""
    for split in manifest.splits.values():
        for shard in split.shards:
            path = folder / shard.file
            if not path.is_file() or path.stat().st_size != shard.bytes:
                raise CacheError(
                    f"{path}: was removed or changed while the cache was written; it is incomplete, write it again"
                )


@contextmanager
def exclusive(folder: Path) -> Iterator[FolderLock]:
    """Be the only writer of a cache's folder. The folder is created if it is missing.

    Raises:
        CacheError: another process, or another writer in this process, is writing here; or the folder cannot be made.
    """
    lock = FolderLock(folder)
    with as_cache_errors(), os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = lock.acquire()
    if not free:
        raise CacheError(
            f"{folder}: another process is writing this cache; wait for it or stop it, then run again"
        )
    try:
        yield lock
    finally:
        lock.release()


def check_in_place(lock: FolderLock | None) -> None:
    """Check that the locked folder is still in its place. Without a lock (another process has it), check nothing.

    Raises:
        CacheError: the folder was deleted or replaced while the cache was written.
    """
    if lock is not None and not lock.is_in_place():
        raise CacheError(
            f"{lock.folder}: was deleted or replaced while the cache was written; it is incomplete, write it again"
        )


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise CacheError(f"{path}: is a file; a logit cache is a folder, choose another path") from error
    except OSError as error:
        raise KdcacheError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def as_cache_errors() -> Iterator[None]:
    """Turn errors of writing files into CacheErrors that also say that the cache is incomplete."""
    try:
        yield
    except CacheError:
        raise
    except KdcacheError as error:
        raise CacheError(f"{error}; the logit cache is incomplete") from error


@functools.cache  # each look-up parses a package's whole metadata, including its README
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
