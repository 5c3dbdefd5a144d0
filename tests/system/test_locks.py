"""A folder has one user at a time, and a lock ends with the process that took it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from kdcache.system.locks import FolderLock


def test_one_at_a_time(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    second.release()  # twice is once


def test_a_child_that_was_forked_does_not_keep_the_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:  # the holder: forks a child that outlives it, and is killed
        lock = FolderLock(tmp_path)
        lock.acquire()
        child = os.fork()
        if child == 0:
            os.write(writing, b"%d\n" % os.getpid())
            signal.pause()
        signal.pause()
    child = int(os.read(reading, 20))
    try:
        assert not FolderLock(tmp_path).acquire()  # the child closed its copy: the holder's lock stays
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        lock = FolderLock(tmp_path)
        assert lock.acquire()
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_folder_that_is_gone_or_replaced_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = FolderLock(folder)
    assert lock.acquire()
    assert lock.is_in_place()
    shutil.rmtree(folder)
    assert not lock.is_in_place()
    folder.mkdir()
    assert not lock.is_in_place()
    lock.release()
