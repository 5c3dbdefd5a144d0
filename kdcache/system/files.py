"""Files that are whole or absent: atomic writing, and JSON with errors for people.

Every result this package leaves on disk goes through `write_atomically`: the content is written beside its
destination, flushed to the device and renamed, so that a crash, a kill or a full disk never leaves a file
that could be taken for a complete one.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from kdcache.errors import KdcacheError

TEMPORARY_SUFFIX = ".tmp"
MOST_JSON = 16 << 20  # bytes that a JSON file may have
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EFBIG: "the file would exceed the allowed size",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; check the folder's owner and mode",
    errno.EPERM: "permission denied; check the folder's owner and mode",
}


def write_atomically(path: Path, data: bytes | Callable[[Path], None]) -> None:
    """Write a file so that it is either there whole or not there at all.

    The folder is created when missing. The bytes go to a temporary file `.<name>.<random>.tmp` in the same
    folder, which is fsynced and renamed over `path`; then the folder is fsynced, so that the name survives a
    power cut. A killed process can leave such a temporary file behind; nothing reads it.

    Args:
        path: the destination; an existing file is replaced.
        data: the content, or a function that writes it to the (existing, empty) file it is given.

    Raises:
        KdcacheError: the file cannot be written (disk full, read-only, no permission). `path` is then as
            before and the temporary file is gone. Errors of `data` itself other than OSError pass through.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_beside(path)
        try:
            _fill(temporary, data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error


def remove(path: Path) -> None:
    """Delete a file, if it is there, and make the deletion durable."""
    try:
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KdcacheError(f"{path}: cannot be deleted: {error.strerror or error}") from error


def remove_folder(folder: Path) -> None:
    """Delete a folder, if it is there. It is renamed first, so a half-deleted folder is never taken for a whole one."""
    aside = folder.with_name(f".{folder.name}.old{TEMPORARY_SUFFIX}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(folder, aside)
        shutil.rmtree(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KdcacheError(f"{folder}: cannot be deleted: {error.strerror or error}") from error


def copy_folder(source: Path, target: Path, leave_out: str | None = None) -> None:
    """Copy a folder with all its files, and make the copy durable. A link to a file is copied as the file.

    Args:
        leave_out: the name of files and folders that are not copied.

    Raises:
        KdcacheError: something in it is neither a file nor a folder, or is a link to a folder.
        OSError: something cannot be read or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns(leave_out) if leave_out else None
    for path in source.rglob("*"):
        if path.is_symlink() and path.is_dir():  # to /, perhaps, or to a folder that it is in
            raise KdcacheError(f"{path}: is a link to a folder; put a folder there, or remove it")
    shutil.copytree(source, target, symlinks=False, ignore=ignore, copy_function=_copy_regular)
    for path in target.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # DVC protects what it links
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _copy_regular(source: str, target: str) -> None:
    with open_regular(Path(source)) as file, open(target, "wb") as copy:
        shutil.copyfileobj(file, copy)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the device (a no-op where folders cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot do it
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, obj: Any) -> None:
    """Write an object as readable JSON, atomically; NaN and infinity are refused.

    Raises:
        KdcacheError: the object is not JSON (the message says why), is larger than `read_json` reads, or the file
            cannot be written.
    """
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        data = text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise KdcacheError(f"{path}: not written, the content is not valid JSON: {error}") from error
    if len(data) > MOST_JSON:
        raise KdcacheError(
            f"{path}: not written, the content has {len(data):,} bytes, of which at most {MOST_JSON:,} can be read; "
            "its names (classes, perhaps) are too many or too long"
        )
    write_atomically(path, data)


def read_json(path: Path, most: int = MOST_JSON, *, ours: bool = True) -> Any:
    """Read a JSON file.

    Args:
        most: the largest size in bytes. A larger file is refused unread: parsed JSON takes 20 times its text's memory.
        ours: refuse a key that is there twice, of which a reader would take one value without a word. A file of
            another tool (False) is read as that tool reads it: the last value counts.

    Raises:
        KdcacheError: the file is missing, not a regular file, too large, unreadable, or not valid JSON in UTF-8; or a
            key is there twice.
    """
    once = each_key_once if ours else None
    try:
        text = read_regular(path, most).decode("utf-8")
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=once)
    except FileNotFoundError:
        raise KdcacheError(f"{path}: the file does not exist") from None
    except OSError as error:
        raise KdcacheError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise KdcacheError(f"{path}: is not valid JSON ({error}); delete it and run again") from None


def each_key_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its keys and values, for `json.loads(object_pairs_hook=)`.

    Raises:
        ValueError: a key is there twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.80} is there twice")
    return found


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, to read its bytes.

    Named pipes and devices are not opened: a pipe would block, and a device such as /dev/zero never ends.

    Raises:
        KdcacheError: the path is not a regular file.
        OSError: it cannot be opened.
    """
    without_waiting = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, os.O_RDONLY | without_waiting)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise KdcacheError(f"{path}: is no regular file; put one there, or choose another path")
    return os.fdopen(descriptor, "rb")


def refuse_pipes(folder: Path) -> None:
    """Refuse a folder for libraries that open what is in it: a pipe would block them, and a device may never end.

    Raises:
        KdcacheError: something in the folder itself is neither a regular file nor a folder.
        OSError: the folder cannot be read.
    """
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise KdcacheError(f"{path}: is a pipe, socket or device; put a regular file there, or remove it")


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file.

    Args:
        most: the largest size in bytes.

    Raises:
        KdcacheError: it is not a regular file, or is larger than `most`.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most + 1) if size <= most else b""
    if max(size, len(data)) > most:
        raise KdcacheError(f"{path}: has {max(size, len(data)):,} bytes, expected at most {most:,}")
    return data


def user_path(path: str | Path) -> Path:
    """The path that a person wrote, with `~` or `~user` replaced by the home folder.

    Raises:
        KdcacheError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise KdcacheError(f"{path}: {error}; write the folder out") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _temporary_beside(path: Path) -> Path:
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"
    temporary.open("xb").close()  # the user's umask applies, unlike with tempfile
    return temporary


def _fill(temporary: Path, data: bytes | Callable[[Path], None]) -> None:
    if callable(data):
        data(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        return
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_error(path: Path, error: OSError) -> KdcacheError:
    reason = error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0)
    return KdcacheError(f"{path}: cannot be written: {reason}" + (f" ({advice})" if advice else ""))
