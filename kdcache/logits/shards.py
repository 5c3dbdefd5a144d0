"""A cache's files while it is being written: store a shard, recognise one that an earlier run left, clear the rest.

`LogitWriter` and `write_logits` are built on this. Shard k of a split holds the rows at positions [k R, (k + 1) R)
with R = `rows_per_shard`, and the same rows give the same bytes; so what an interrupted run left can be kept, and
processes can write different shards of one cache without talking to each other.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from kdcache.errors import CacheError, KdcacheError
from kdcache.logits.cost import COST, write_cost
from kdcache.logits.format import (
    MANIFEST,
    METADATA_KEY,
    Cost,
    Header,
    Manifest,
    ShardInfo,
    SplitInfo,
    encode_shard,
    manifest_json,
    parse_shard,
    sha256,
    shard_file,
    shard_metadata,
)
from kdcache.system.files import TEMPORARY_SUFFIX, read_json, remove, write_atomically, write_json

SHARD_NAME = re.compile(r"part-\d{5,}\.parquet")
PACKAGES = ("kdcache", "numpy", "pyarrow", "torch", "transformers")


@dataclass(frozen=True)
class Rows:
    """Some rows of a split: the contents of a shard, or of a part of it."""

    ids: np.ndarray  # int64 [n]
    row_hashes: np.ndarray  # uint64 [n]
    logits: np.ndarray  # the cache's dtype [n, K], or [n, V, K] with V views

    def __len__(self) -> int:
        return len(self.ids)


def checked_header(folder: Path, **values: Any) -> Header:
    """The header of a cache to be written.

    Raises:
        CacheError: the options do not make a cache; every mistake is named.
    """
    try:
        return Header.model_validate(values)
    except ValidationError as error:
        mistakes = "; ".join(_mistake(item) for item in error.errors())
        raise CacheError(f"{folder}: {mistakes}") from None


def _mistake(error: Any) -> str:
    where, reason = ".".join(map(str, error["loc"])), str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {reason}, found {error['input']!r}" if where else reason


def store_shard(folder: Path, header: Header, split: str, index: int, rows: Rows) -> ShardInfo:
    """Write one whole shard, atomically."""
    data = encode_shard(rows.ids, rows.row_hashes, rows.logits, shard_metadata(header, split, index))
    file = shard_file(split, index)
    with as_cache_errors():
        write_atomically(folder / file, data)
    return ShardInfo(file=file, rows=len(rows), bytes=len(data), sha256=sha256(data))


def stored_shard(
    folder: Path, header: Header, split: str, index: int, count: int
) -> tuple[ShardInfo, Rows] | None:
    """The shard that an interrupted run left at this place, if it is byte for byte what would be written now.

    Its values are decoded and encoded again: the footer has a checksum of them, so that bytes which come out equal are
    whole, of these fingerprints, and of this version of the encoder. Anything else is None: it has to be written again.
    """
    file = shard_file(split, index)
    path = folder / file
    try:
        data = path.read_bytes()
        table = parse_shard(data, path, header, split, index, count).read()
        logits = table["logits"].combine_chunks().flatten().to_numpy().reshape(count, *header.row_shape)
        rows = Rows(table["id"].to_numpy(), table["row_hash"].to_numpy(), logits)
        again = encode_shard(rows.ids, rows.row_hashes, rows.logits, shard_metadata(header, split, index))
    except (CacheError, OSError, pa.ArrowException, ValueError):
        return None
    if again != data:
        return None
    return ShardInfo(file=file, rows=count, bytes=len(data), sha256=sha256(data)), rows


def store_manifest(
    folder: Path,
    header: Header,
    splits: Mapping[str, SplitInfo],
    scores: Mapping[str, Mapping[str, float]] | None,
    cost: Cost | None,
) -> Manifest:
    """Write the manifest: from here on the cache is complete.

    Raises:
        CacheError: a score is no finite number, or of a split that is not there; or it cannot be written.
    """
    try:
        numbers = {
            name: {metric: float(value) for metric, value in values.items()}
            for name, values in (scores or {}).items()
        }
        manifest = Manifest(
            **dict(header),
            splits=dict(splits),
            scores=numbers,
            versions=_versions(),
        )
    except (TypeError, ValueError) as error:
        raise CacheError(f"{folder}: the manifest cannot be written: {error}") from None
    with as_cache_errors():
        write_json(folder / MANIFEST, manifest_json(manifest))
        write_cost(folder, cost)
    return manifest


def clear(folder: Path, keep: Collection[str] = ()) -> None:
    """Make a folder ready for writing: its manifest goes first, then temporary files and shards not in `keep`.

    Only what this format wrote is removed: its manifest and cost, and shards by their exact names, in real sub-folders,
    with this format's key in their footers. From here on the folder counts as incomplete.

    Args:
        keep: shard files relative to the folder, such as "train/part-00000.parquet".

    Raises:
        CacheError: a manifest or a part-*.parquet is there that no logit cache wrote; nothing was removed.
    """
    with as_cache_errors(), _os_errors(folder):
        _refuse_foreign_manifest(folder)
        shards = [path for split in _split_folders(folder) for path in _own_shards(split)]
        stale = [
            *folder.glob(f".{MANIFEST}.*{TEMPORARY_SUFFIX}"),
            *folder.glob(f".{COST}.*{TEMPORARY_SUFFIX}"),
        ]
        stale += [
            path for split in _split_folders(folder) for path in split.glob(f".part-*{TEMPORARY_SUFFIX}")
        ]
        stale += [path for path in shards if path.relative_to(folder).as_posix() not in keep]
        for path in (folder / MANIFEST, folder / COST, *stale):
            remove(path)
        for parent in {path.parent for path in stale} - {folder}:
            if not any(parent.iterdir()):
                parent.rmdir()


def _split_folders(folder: Path) -> list[Path]:
    """The real sub-folders; one that is a link leads outside, and one with a manifest is a cache of its own."""
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink()]
    return [path for path in inside if not (path / MANIFEST).exists()]


def _own_shards(split: Path) -> list[Path]:
    """The shards in a split's folder.

    Raises:
        CacheError: a Parquet file is there that no logit cache wrote.
    """
    files = [path for path in sorted(split.iterdir()) if path.suffix == ".parquet"]
    for path in files:
        if not path.is_symlink() and not path.is_file():
            raise CacheError(f"{path}: is no regular file; choose another folder for the cache, or remove it")
        if not SHARD_NAME.fullmatch(path.name) or not _is_own(path):
            raise CacheError(
                f"{path}: no logit cache wrote this file, so its folder is not used for one, and nothing was removed; "
                "choose another path for the cache"
            )
    return files


def _is_own(path: Path) -> bool:
    """Whether a file is a shard of some logit cache, or what a crash left of one: nothing that can be read."""
    if path.is_symlink() and not path.exists():
        return True
    try:
        return METADATA_KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return True


def _refuse_foreign_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    if not path.exists():
        return
    try:
        manifest = read_json(path)
    except KdcacheError:
        return  # a damaged one, or one that was cut short
    if not isinstance(manifest, dict) or "format_version" not in manifest or "checksum" not in manifest:
        raise CacheError(
            f"{path}: is no logit cache's manifest, and nothing was removed; choose another path"
        )


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Be the only writer of a cache's folder, which is made when missing. The lock ends with the process, however.

    It is on the folder itself, so that no lock file stays in the cache; systems without such locks get none.

    Raises:
        CacheError: another process, or another writer of this one, is writing here; or there can be no folder here.
    """
    with as_cache_errors(), _os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with as_cache_errors(), _os_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CacheError(
                f"{folder}: another process is writing this cache; wait for it or stop it, then run again"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise CacheError(f"{path}: is a file; a logit cache is a folder, choose another path") from error
    except OSError as error:
        raise KdcacheError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def as_cache_errors() -> Iterator[None]:
    """What keeps files from being written keeps the cache from being complete: say both."""
    try:
        yield
    except CacheError:
        raise
    except KdcacheError as error:
        raise CacheError(f"{error}; the logit cache is incomplete") from error


@functools.cache  # each look-up parses a package's whole metadata, README and all
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
