"""Make a folder ready for a cache: remove the files of an earlier cache, and nothing else.

A cache's own files are: its manifest; a file that can be read as its cost; in real sub-folders, files that have the
exact name of a shard and this format's key in the Parquet footer; and temporary files with the exact names. A Parquet
file, manifest or cost.json of other origin makes the folder unusable for a cache. The folder is then refused with that
file's name, and nothing is removed. Other files do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import CacheError, KdcacheError
from kdcache.logits.cost import COST, read_cost
from kdcache.logits.parquet import METADATA_KEY
from kdcache.logits.records import MANIFEST, MOST_MANIFEST, SPLIT_NAME
from kdcache.logits.shards import as_cache_errors, os_errors
from kdcache.system.files import open_regular, read_json, read_regular, remove

SHARD = re.compile(r"part-\d{5,}\.parquet")
TEMPORARY = re.compile(r"\.(part-\d{5,}\.parquet|manifest\.json|cost\.json)\.[0-9a-z]+\.tmp")
PARQUET = b"PAR1"  # a Parquet file begins and ends with it


def clear(folder: Path, keep: Collection[str] = ()) -> None:
    """Make a folder ready for writing. Its manifest goes first, then temporary files and the shards not in `keep`.

    Afterwards the folder counts as an incomplete cache.

    Args:
        keep: shard files relative to the folder, such as "train/part-00000.parquet".

    Raises:
        CacheError: the folder has a file that no logit cache wrote. Then nothing was removed.
    """
    with as_cache_errors(), os_errors(folder):
        _refuse_foreign_manifest(folder)
        _refuse_foreign_cost(folder)
        splits = _split_folders(folder)
        shards = [path for split in splits for path in _own_shards(split)]
        stale = [path for parent in (folder, *splits) for path in _temporary(parent)]
        stale += [path for path in shards if path.relative_to(folder).as_posix() not in keep]
        for path in (folder / MANIFEST, folder / COST, *stale):
            remove(path)
        for parent in {path.parent for path in stale} - {folder}:
            if not any(parent.iterdir()):
                parent.rmdir()


def refuse_finished(folder: Path) -> None:
    """Refuse a folder with a finished cache, for writers that are not to replace one.

    Raises:
        CacheError: the folder has a manifest: a cache's, or one that no logit cache wrote. Nothing was removed.
    """
    with as_cache_errors(), os_errors(folder):
        _refuse_foreign_manifest(folder)
        if (folder / MANIFEST).exists():
            raise CacheError(
                f"{folder}: holds a finished cache, and nothing was removed; delete this folder, or give another one"
            )


def _split_folders(folder: Path) -> list[Path]:
    """The sub-folders that can be splits. Not links, which lead outside, nor folders with a manifest (other caches)."""
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink()]
    return [path for path in inside if SPLIT_NAME.fullmatch(path.name) and not (path / MANIFEST).exists()]


def _temporary(parent: Path) -> list[Path]:
    return [path for path in sorted(parent.iterdir()) if TEMPORARY.fullmatch(path.name) and path.is_file()]


def _own_shards(split: Path) -> list[Path]:
    """The shards in a split's folder.

    Raises:
        CacheError: the folder has a Parquet file that no logit cache wrote.
    """
    files = [path for path in sorted(split.iterdir()) if path.suffix == ".parquet"]
    for path in files:
        if not SHARD.fullmatch(path.name) or not _is_own(path):
            raise CacheError(
                f"{path}: no logit cache wrote this file, so its folder is not used for one, and nothing was removed; "
                "choose another path for the cache"
            )
    return files


def _is_own(path: Path) -> bool:
    """Whether a file is some logit cache's shard, or so damaged that it may have been one."""
    if path.is_symlink() and not path.exists():
        return True
    with open_regular(path) as file:
        begin = file.read(len(PARQUET))
    try:
        return METADATA_KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return begin in (PARQUET, b"") or path.is_symlink()  # if it is a link, only the link is removed


def _refuse_foreign_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    if not path.exists():
        return
    if not _is_own_manifest(path):
        raise CacheError(
            f"{path}: is no logit cache's manifest, and nothing was removed; choose another path"
        )


def _refuse_foreign_cost(folder: Path) -> None:
    """Refuse a cost.json that is not a cache's. Beside a cache's manifest it is the cache's own, even if damaged."""
    path = folder / COST
    if path.exists() and not (folder / MANIFEST).exists() and read_cost(folder) is None:
        raise CacheError(f"{path}: is no logit cache's cost, and nothing was removed; choose another path")


def _is_own_manifest(path: Path) -> bool:
    """Whether a manifest belongs to some logit cache. It may be damaged.

    Raises:
        KdcacheError: it is not a regular file, or larger than a manifest can be.
    """
    text = read_regular(path, MOST_MANIFEST)
    try:
        manifest = read_json(path, MOST_MANIFEST)
    except KdcacheError:
        return not text or b"rows_per_shard" in text or b"fingerprints" in text
    known = {"format_version", "rows_per_shard", "fingerprints", "checksum"}
    return isinstance(manifest, dict) and known <= manifest.keys()
