"""Places for trials on one machine, shared by stages that run at the same time.

A stage alone runs N trials at once, on cores / N threads each. Several stages at once must not run N each; and giving
each a share of N would leave cores idle while only one of them has work, and change the number of threads, which can
change a result's last bits. So all of them take their places from one folder, which KDCACHE_SLOTS names: N files, of
which a worker locks one for as long as its stage has trials for it. The place's number decides the worker's GPU, which
cannot be changed later. A lock is gone with its process, however that ends. Without KDCACHE_SLOTS there is one stage at
a time, and nothing to wait for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kdcache.system import processes

SLOTS = "KDCACHE_SLOTS"
PAUSE = 0.05  # seconds between two looks for a free place


@contextmanager
def one(count: int) -> Iterator[int | None]:
    """Hold one of `count` places and give its number, from 0; waits until one is free. None where there are none."""
    folder = _folder()
    if folder is None:
        yield None
        return
    with _turn(folder):
        place, lock = _first_free(folder, count)
    try:
        yield place
    finally:
        lock.release()


@contextmanager
def every() -> Iterator[None]:
    """Hold the whole machine, for work that uses every core; waits until the stages that have places are through."""
    folder = _folder()
    if folder is None:
        yield
        return
    with _turn(folder):  # kept: no worker starts meanwhile
        for path in folder.glob("place-*"):
            with FileLock(path).acquire(poll_interval=PAUSE):
                pass
        yield


def _folder() -> Path | None:
    """Where the places are. Of the processes of one `accelerate launch` the main one takes a place for all of them."""
    name = os.environ.get(SLOTS)
    return Path(name) if name and processes.is_main() else None


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One after the other: whoever has it is the next to get a place."""
    with FileLock(folder / "turn").acquire(poll_interval=PAUSE):
        yield


def _first_free(folder: Path, count: int) -> tuple[int, FileLock]:
    locks = [FileLock(folder / f"place-{index}") for index in range(count)]
    while True:
        for place, lock in enumerate(locks):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return place, lock
        time.sleep(PAUSE)
