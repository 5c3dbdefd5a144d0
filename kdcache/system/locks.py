"""Locks that end with their process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kdcache.errors import TrialError
from kdcache.system import processes


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock on an output folder; it lies beside the folder and is freed when the process ends, however.

    Of the processes of one `accelerate launch` only the main one, which writes, takes it.

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
