"""Places for trials on one machine, shared by stages that run at the same time.

A single stage runs N trials at once, on cores / N threads each. Several stages at once must not run N trials each.
Giving each stage a part of N would leave cores idle while only one stage has work, and it would change the number of
threads, which can change a result's last bits. So all stages take places from one folder, which KDCACHE_SLOTS names.
The folder has N files, and a worker locks one of them as long as its stage has trials for it. The place's number
decides the worker's GPU, which cannot be changed later. A lock is released when its process ends, in any way. Without
KDCACHE_SLOTS, one stage runs at a time, and nothing is waited for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kdcache.system import processes

SLOTS = "KDCACHE_SLOTS"
PAUSE = 0.05  # seconds between two searches for a free place


@contextmanager
def hold_one(count: int) -> Iterator[int | None]:
    """Wait for one of `count` places and hold it. Yields its number, from 0, or None without KDCACHE_SLOTS."""
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
def hold_some(needed: int, count: int) -> Iterator[None]:
    """Wait for `needed` of `count` places and hold them. If there are fewer, wait for all of them."""
    folder = _folder()
    if folder is None:
        yield
        return
    with ExitStack() as held:
        with _turn(folder):
            for _ in range(min(needed, count)):
                _, lock = _first_free(folder, count)
                held.callback(lock.release)
        yield


@contextmanager
def hold_all() -> Iterator[None]:
    """Hold all places, for work that uses every core. Waits until no other stage holds a place."""
    folder = _folder()
    if folder is None:
        yield
        return
    with _turn(folder):  # held to the end, so that no worker starts in the meantime
        for path in folder.glob("place-*"):
            with FileLock(path).acquire(poll_interval=PAUSE):
                pass
        yield


def _folder() -> Path | None:
    """The folder of the places, or None. Under `accelerate launch` only the main process takes a place, for all."""
    name = os.environ.get(SLOTS)
    return Path(name) if name and processes.is_main() else None


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """A lock for taking turns: its holder is the next to get a place."""
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
