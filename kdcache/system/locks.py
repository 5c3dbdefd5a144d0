"""Locks on folders. Each is released when its process ends, even by SIGKILL.

`exclusive` locks a stage's output folder by a lock file beside it. `FolderLock` locks the folder of a logit cache
itself, so that no lock file stays in the cache. Where many processes wait for their turn (an engine's places, the
store), `filelock` is used directly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kdcache.errors import TrialError
from kdcache.system import processes

try:
    import fcntl
except ImportError:  # Windows: its folders cannot be locked
    fcntl = None  # type: ignore[assignment]


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock on an output folder; the lock file lies beside the folder.

    Under `accelerate launch` only the main process takes the lock, since only it writes.

    Raises:
        TrialError: another process holds it, e.g. a stage that outlived a killed `dvc repro`.
    """
    if not processes.is_main():
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrialError(
            f"{folder}: another process is writing here (it holds {lock.lock_file}), perhaps a stage that outlived a "
            "killed `dvc repro`; wait for it or stop it, then run again"
        ) from None
    try:
        yield
    finally:
        lock.release()


class FolderLock:
    """The lock on a folder itself. Systems whose folders cannot be locked (Windows) get none.

    A forked child does not inherit the lock; otherwise the lock would outlive a killed parent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False: another process, or another lock of this one, has it.

        Raises:
            OSError: there is no such folder, or it cannot be opened.
        """
        if fcntl is None:
            return True
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _HELD.add(self)
        return True

    def is_in_place(self) -> bool:
        """Whether the folder is still the one that was locked, not deleted or replaced."""
        if self._descriptor is None:
            return True
        try:
            current = os.stat(self.folder)
        except OSError:
            return False
        return os.path.samestat(current, os.fstat(self._descriptor))

    def release(self) -> None:
        """Let the lock go, if it is held."""
        _HELD.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_HELD: set[FolderLock] = set()


def _release_in_child() -> None:
    for lock in list(_HELD):  # closes the child's copy; the parent's lock stays
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
