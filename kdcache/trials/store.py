"""The store: finished trials, teachers and caches by identity, so that nothing is computed twice.

The store lies in the project's folder `.kdcache/`, beside .dvc and outside Git. `dvc exp` shares it in its temporary
copies of the project. An entry is a copy of a finished folder with the checksum of each file. It is added in one step
when the folder is finished, and checked in full before it is taken. A damaged entry is never taken. The folder itself
is what counts: if it cannot be stored there is a warning, and only a folder that is removed next has to be stored.

    .kdcache/store/<kind>/<identity>/seal.json   the files of `content`, their sizes and checksums
    .kdcache/store/<kind>/<identity>/content/

A student's trained model (`keep` in params.yaml) is not stored. It takes the space of hundreds of trials, which would
soon be removed to make room for it. And a lost model can be trained again and checked against its trial's logits.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from kdcache.errors import KdcacheError, TrialError
from kdcache.hashing import fingerprint
from kdcache.system.files import copy_folder, read_json, sync_folder, write_json
from kdcache.trials.layout import MODEL, RESULT, own_folder

log = logging.getLogger(__name__)

FOLDER = "KDCACHE_STORE"  # variable: another folder, or "off" for no store
SIZE = "KDCACHE_STORE_GB"  # variable: the largest size of the store
DEFAULT_GB = 20.0
ABANDONED = 24 * 3600.0  # seconds: no put takes as long
SEAL, CONTENT, TOTAL = "seal.json", "content", "total.json"
Kind = Literal["trials", "teachers", "caches"]
KINDS: tuple[Kind, ...] = ("trials", "teachers", "caches")


@dataclass(frozen=True)
class Entry:
    """An entry of the store; `used` is when it was last put or taken, in seconds since 1970."""

    kind: str
    identity: str
    bytes: int
    used: float
    folder: Path


class Store:
    """A store in a folder, which is created when the first entry is put into it.

    Args:
        folder: default: `.kdcache/store` of the project that the current folder is in.
        limit: the largest size in bytes. The entries that were unused for longest are removed first.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def put(self, kind: Kind, identity: str, folder: Path, check: bool = False) -> None:
        """Store a copy of a finished folder. An existing entry stays as it is.

        Args:
            check: read an existing entry in full, and replace it if it is damaged. For a folder that is removed next.

        Raises:
            KdcacheError: the copy cannot be written, or is larger than the whole store may be. The folder itself is
                not touched.
        """
        entry = self._entry(kind, identity)
        if _is_stored(entry, identity, check):
            return
        copy = entry.with_name(f".{identity}.{secrets.token_hex(4)}")
        leave_out = MODEL if kind == "trials" else None
        try:
            size = _size_of(folder, leave_out)
            self._check_size(folder, size)
            copy_folder(folder, copy / CONTENT, leave_out)
            files = _checksums(copy / CONTENT)
            write_json(copy / SEAL, {"kind": kind, "identity": identity, "bytes": size, "files": files})
            if entry.exists():  # it is damaged, or was left by a killed process
                shutil.rmtree(entry)
            os.rename(copy, entry)
            sync_folder(entry.parent)
        except OSError as error:
            if _is_stored(entry, identity, check):  # another process has just stored the same
                return
            raise KdcacheError(f"{entry}: cannot be stored: {error.strerror or error}") from error
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        self._keep_to_limit(size, entry)

    def put_if_possible(self, kind: Kind, identity: str, folder: Path) -> None:
        """Store a copy of a finished folder. If that fails there is a warning: the folder itself is what counts."""
        try:
            self.put(kind, identity, folder)
        except KdcacheError as error:
            log.warning("%s: is finished, but not stored: %s", folder, error)

    def _check_size(self, folder: Path, size: int) -> None:
        if size > self.limit:
            raise KdcacheError(
                f"{folder}: {size / 1e9:.3g} GB, larger than {SIZE}={self.limit / 1e9:.3g}: not stored"
            )

    def take(self, kind: Kind, identity: str, folder: Path) -> bool:
        """Copy an entry to `folder`, in one step. Return False if there is no entry, or it is damaged.

        Raises:
            KdcacheError: the copy cannot be written.
        """
        entry = self._entry(kind, identity)
        if not _is_sealed(entry):
            return False
        copy = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        try:
            seal = _read_seal(entry)
            _check_names(entry / CONTENT, seal)  # before anything is copied that the store did not put there
            copy_folder(entry / CONTENT, copy)
            _check_files(copy, seal, identity)
            if folder.exists():
                shutil.rmtree(folder)
            os.rename(copy, folder)
        except KdcacheError as error:
            shutil.rmtree(entry, ignore_errors=True)
            removed = "cannot be removed; remove it yourself" if entry.exists() else "was removed"
            log.warning("%s: is not used (%s) and %s", entry, error, removed)
            return False
        except FileNotFoundError:  # another process freed it in the meantime
            return False
        except OSError as error:
            reason = error.strerror or error
            raise KdcacheError(f"{folder}: cannot be written from {entry}: {reason}") from error
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        with suppress(OSError):  # the entry was freed meanwhile, or is somebody else's; the folder is there
            os.utime(entry / SEAL)
        return True

    def entries(self) -> list[Entry]:
        """All entries. Those that were unused for longest come first."""
        return sorted(self._entries(), key=lambda entry: entry.used)

    def free(self, limit: int | None = None, keep: Path | None = None) -> list[Entry]:
        """Remove the entries that were unused for longest, until at most `limit` bytes are left (default: the store's
        own limit).

        Args:
            keep: the folder of an entry that is not removed.

        Returns:
            The removed entries.
        """
        limit = self.limit if limit is None else limit
        self._remove_unfinished()
        entries = self.entries()
        bytes_left, removed = sum(entry.bytes for entry in entries), []
        for entry in entries:
            if bytes_left <= limit:
                break
            if entry.folder == keep:
                continue
            shutil.rmtree(entry.folder, ignore_errors=True)
            bytes_left -= entry.bytes
            removed.append(entry)
        if self.folder.is_dir():
            write_json(self.folder / TOTAL, {"bytes": bytes_left})
        return removed

    def _remove_unfinished(self) -> None:
        """Remove the copies of puts that were killed. A young one may still be under way."""
        for kind in KINDS:
            for copy in (self.folder / kind).glob(".*"):
                with suppress(FileNotFoundError):  # another process has just finished it
                    if time.time() - copy.stat().st_mtime > ABANDONED:
                        shutil.rmtree(copy, ignore_errors=True)

    def _entry(self, kind: Kind, identity: str) -> Path:
        return self.folder / kind / identity

    def _entries(self) -> Iterator[Entry]:
        for kind in KINDS:
            for seal in (self.folder / kind).glob(f"*/{SEAL}"):
                try:
                    used, size = seal.stat().st_mtime, _bytes_in(seal)
                except (KdcacheError, OSError):
                    used, size = 0.0, sum(path.stat().st_size for path in _files(seal.parent))
                yield Entry(kind, seal.parent.name, size, used, seal.parent)

    def _keep_to_limit(self, size: int, entry: Path) -> None:
        """Count a new entry, and free what exceeds the limit. If that fails there is a warning: the entry is there."""
        try:
            self._count(size, entry)
        except (KdcacheError, OSError) as error:
            log.warning("%s: the store's size is not known, and nothing is removed: %s", self.folder, error)

    def _count(self, size: int, entry: Path) -> None:
        """Add a new entry to the recorded number of bytes, and free what exceeds the limit; never the entry itself.
        (Counting all entries is slow.)
        """
        with FileLock(self.folder / f".{TOTAL}.lock"):
            try:
                total = _bytes_in(self.folder / TOTAL) + size
            except KdcacheError:
                total = sum(entry.bytes for entry in self._entries())
            write_json(self.folder / TOTAL, {"bytes": total})
            if total > self.limit:
                removed = self.free(keep=entry)
                log.info(
                    "%s: %d entries removed, to stay below %.1f GB",
                    self.folder,
                    len(removed),
                    self.limit / 1e9,
                )


def project_store() -> Store | None:
    """The store of the project that the current folder is in; None if KDCACHE_STORE is `off`.

    DVC runs experiments in copies of the project under `.dvc/tmp/`. These share the project's store.

    Raises:
        TrialError: KDCACHE_STORE_GB is not a number above 0.
    """
    place = os.environ.get(FOLDER)
    if place == "off":
        return None
    return Store(Path(place) if place else own_folder() / "store", _limit())


def _limit() -> int:
    text = os.environ.get(SIZE)
    try:
        size = DEFAULT_GB if text is None else float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise TrialError(f"{SIZE} must be a number of gigabytes above 0, found {text!r}")
    return int(size * 1e9)


def run_and_store(plan: Any) -> None:
    """Run a `TrialPlan` and put the trial into the project's store. If the trial is finished, only make its model."""
    from kdcache.trials.again import keep_student
    from kdcache.trials.run import run_trial  # imports torch: not before there is work

    only_model = plan.keep_model and (plan.folder / RESULT).is_file()
    keep_student(plan) if only_model else run_trial(plan)
    store = project_store()
    if store is not None and (plan.folder / RESULT).is_file():
        store.put_if_possible("trials", plan.identity, plan.folder)


def _is_sealed(entry: Path) -> bool:
    return os.path.isfile(entry / SEAL)  # False, not an error, if the store cannot be read


def _is_stored(entry: Path, identity: str, check: bool) -> bool:
    """Whether there is an entry. With `check` also whether it is whole."""
    if not check or not _is_sealed(entry):
        return _is_sealed(entry)
    try:
        seal = _read_seal(entry)
        _check_names(entry / CONTENT, seal)
        _check_files(entry / CONTENT, seal, identity)
    except (KdcacheError, OSError) as error:
        log.warning("%s: is damaged (%s), and is stored again", entry, error)
        return False
    return True


def _read_seal(entry: Path) -> dict[str, Any]:
    seal = read_json(entry / SEAL)
    if not isinstance(seal, dict) or not isinstance(seal.get("files"), dict):
        raise KdcacheError("its seal is damaged")
    return seal


def _check_names(content: Path, seal: dict[str, Any]) -> None:
    """Refuse what the store did not put there: other names, links, and anything that is not a file."""
    for path in content.rglob("*"):
        known = path.relative_to(content).as_posix() in seal["files"] and path.is_file()
        if path.is_symlink() or not (known or path.is_dir()):
            raise KdcacheError("its files are not as they were stored")


def _check_files(content: Path, seal: dict[str, Any], identity: str) -> None:
    """Refuse files that are not those of the seal, and another identity's seal."""
    if seal.get("identity") != identity or seal["files"] != _checksums(content):
        raise KdcacheError("its files are not as they were stored")


def _bytes_in(path: Path) -> int:
    """The number of bytes that a file of the store states.

    Raises:
        KdcacheError: the file states no number.
    """
    content = read_json(path)
    size = content.get("bytes") if isinstance(content, dict) else None
    if type(size) is not int or size < 0:
        raise KdcacheError(f"{path}: has no number of bytes")
    return size


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _size_of(folder: Path, leave_out: str | None) -> int:
    """The bytes that a copy of the folder takes."""
    kept = (path for path in _files(folder) if leave_out not in path.relative_to(folder).parts)
    return sum(path.stat().st_size for path in kept)


def _checksums(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): fingerprint.of_file(path) for path in _files(folder)}
