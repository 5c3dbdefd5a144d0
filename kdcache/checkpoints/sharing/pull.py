"""`kdcache pull`: download a cache from the hub. Its folder appears whole and verified, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from kdcache.checkpoints.sharing.remote import (
    TYPE,
    Remote,
    asking,
    connect,
    difference,
    look,
    parse,
    shards_of,
)
from kdcache.errors import CacheError
from kdcache.logits.cost import COST
from kdcache.logits.disk import Verification
from kdcache.logits.opening import open_cache, read_manifest
from kdcache.logits.records import MANIFEST, Fingerprints, Sealed
from kdcache.logits.shards import os_errors
from kdcache.system.files import MOST_JSON, sync_folder, user_path
from kdcache.system.locks import FolderLock
from kdcache.system.quoting import listed

PARTS = "part-[0-9][0-9][0-9][0-9][0-9].parquet"  # a pattern for the hub's client: a split has up to 65,536 shards
EXPECTED = ("identity", *Fingerprints.model_fields)


def pull(source: str, folder: str | Path, expect: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Download a cache, verify it in full, and only then put it in its place.

    Args:
        source: `hf://datasets/OWNER/NAME[/FOLDER][@REVISION]`.
        folder: the destination. If it holds this cache already, it stays as it is.
        expect: fingerprints that the cache must have, by name: `identity`, `data`, `weights`, `preprocessing`, `code`.

    Returns:
        `path`, `address`, `commit`, `downloaded` (False if the folder held the cache already), `identity`, `rows` by
        split, `shards`, `bytes` and `fingerprints`.

    Raises:
        CacheError: the address has no cache, or its cache is incomplete, damaged or not the one expected; the folder
            holds something else; or the hub refuses. The folder is then as before.
    """
    address, place = parse(source), user_path(folder)
    api = connect()
    with asking(address, "cannot be had from the hub"):
        remote = look(api, address)
    manifest = remote.manifest
    if manifest is None:
        raise CacheError(f"{address}: there is no {MANIFEST} at commit {remote.commit}, so no cache is there")
    _check_expected(remote, manifest, expect or {})
    downloaded = not _holds_something(place)
    verification = _fetched(remote, manifest, place) if downloaded else _same(remote, manifest, place)
    return {
        "path": str(place),
        "address": str(address),
        "commit": remote.commit,
        "downloaded": downloaded,
        "identity": manifest.identity,
        "rows": {name: split.rows for name, split in manifest.splits.items()},
        "shards": verification.shards,
        "bytes": verification.bytes,
        "fingerprints": manifest.fingerprints.model_dump(),
    }


def _check_expected(remote: Remote, manifest: Sealed, expect: Mapping[str, str]) -> None:
    unknown = [name for name in expect if name not in EXPECTED]
    if unknown:
        raise CacheError(f"{unknown[0]!r:.80}: is no fingerprint's name; there are: {', '.join(EXPECTED)}")
    actual = {"identity": manifest.identity, **manifest.fingerprints.model_dump()}
    for name, value in expect.items():
        if actual[name] != value:
            raise CacheError(
                f"{remote.address}: expected {name} {value}, found {actual[name]} at commit {remote.commit}; nothing "
                "was downloaded"
            )


def _holds_something(place: Path) -> bool:
    with os_errors(place):
        return os.path.lexists(place) and (not place.is_dir() or any(place.iterdir()))


def _same(remote: Remote, manifest: Sealed, place: Path) -> Verification:
    """Verify a folder that must hold exactly this cache.

    Raises:
        CacheError: it holds something else, or this cache is not whole.
    """
    try:
        existing = read_manifest(place)
    except CacheError as error:
        raise CacheError(
            f"{place}: is there already, and is no cache ({error}); choose another folder"
        ) from None
    if existing.identity != manifest.identity:
        names = (str(place), str(remote.address))
        raise CacheError(
            f"{place}: holds another cache ({difference(existing, manifest, names)}); choose another folder"
        )
    try:
        return open_cache(place).verify("full")
    except CacheError as error:
        raise CacheError(
            f"{place}: holds this cache, but not whole ({error}); remove it and pull again"
        ) from None


def _fetched(remote: Remote, manifest: Sealed, place: Path) -> Verification:
    """Download the cache, verify it, and move it to its place."""
    cost = remote.files.get(COST)
    if cost is not None and cost.size > MOST_JSON:
        raise CacheError(
            f"{remote.address}: {COST} has {cost.size:,} bytes, expected at most {MOST_JSON:,}; ask whoever pushed it"
        )
    missing = remote.lacks(shards_of(manifest))
    if missing:
        raise CacheError(
            f"{remote.address}: the cache is incomplete or damaged at commit {remote.commit}: not there, or not as its "
            f"manifest says: {listed(missing)}; ask whoever pushed it, or pull another revision"
        )
    final = Path(os.path.realpath(place))  # a link to an empty folder stays a link
    with _work_folder(final) as work:
        cache = _download(remote, manifest, work)
        try:
            verification = open_cache(cache).verify("full")
        except CacheError as error:
            shutil.rmtree(cache)  # so that the next pull downloads it again
            raise CacheError(f"{remote.address}: what came is damaged, and was removed: {error}") from None
        with os_errors(place):
            _sync(cache)
            cache.rename(final)
            sync_folder(final.parent)
    return verification


@contextmanager
def _work_folder(final: Path) -> Iterator[Path]:
    """A work folder beside the destination. After a failure it stays, and the next pull continues there.

    Raises:
        CacheError: another process is downloading there.
    """
    work = final.parent / f".{final.name}.pull"
    lock = FolderLock(work)
    with os_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        free = lock.acquire()
    if not free or not lock.is_in_place():
        raise CacheError(f"{final}: another process is pulling into this folder; wait for it, then run again")
    try:
        yield work
        shutil.rmtree(work, ignore_errors=True)
    finally:
        lock.release()


def _download(remote: Remote, manifest: Sealed, work: Path) -> Path:
    """Download the cache's files at the commit and return their folder. Files of an earlier pull are kept.

    Raises:
        CacheError: some of the files did not arrive.
    """
    import huggingface_hub

    parts, inside = work / "parts", remote.address.inside
    own = {shard.file for shard in shards_of(manifest)}
    stale = [inside(name) for name in remote.files if fnmatch(name, f"*/{PARTS}") and name not in own]
    with asking(remote.address, "the download failed; run again, what has come is kept"):
        huggingface_hub.snapshot_download(
            remote.address.repository,
            repo_type=TYPE,
            revision=remote.commit,
            allow_patterns=[inside(MANIFEST), inside(COST), *(inside(f"{split}/{PARTS}") for split in manifest.splits)],
            ignore_patterns=stale,
            local_dir=parts,
        )  # fmt: skip
    names = [
        MANIFEST,
        *([COST] if COST in remote.files else []),
        *(shard.file for shard in shards_of(manifest)),
    ]
    kept = {parts / inside(name) for name in names}
    absent = [path.name for path in sorted(kept) if not path.is_file()]
    if absent:
        raise CacheError(f"{remote.address}: not all of it came ({listed(absent)} did not); run again")
    _keep_only(parts, kept)
    return parts / remote.address.folder


def _keep_only(folder: Path, kept: set[Path]) -> None:
    """Remove all but the cache's files: the hub client's notes, and files of an earlier commit."""
    with os_errors(folder):
        for path in sorted(folder.rglob("*"), reverse=True):  # a folder's content comes before the folder
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path not in kept:
                path.unlink()


def _sync(cache: Path) -> None:
    """Flush all files and folders to the device."""
    for path in cache.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(cache)
