"""The store: what was computed once is not computed again, and what is damaged is never taken."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kdcache.errors import KdcacheError, TrialError
from kdcache.logits import Fingerprints, LogitWriter
from kdcache.trials.layout import trial_folder
from kdcache.trials.result import TrialResult, finished_result, write_result
from kdcache.trials.store import Store, project_store, run_and_store
from tests.doing import missing_seeds

LARGE = 10**9


def finish(configuration: Path, seed: int, identity: str) -> Path:
    folder = trial_folder(configuration, seed)
    prints = Fingerprints(data="d", weights=identity, preprocessing="p", code="c")
    with LogitWriter(folder / "logits", classes=2, label_names=["a", "b"], fingerprints=prints) as writer:
        writer.write(
            "validation", np.arange(3), np.arange(3, dtype=np.uint64), np.full((3, 2), seed, np.float32)
        )
        writer.finish()
    write_result(
        folder,
        TrialResult(
            identity=identity, task="task", student="student", family="bert", init="scratch", checkpoint="m",
            layers=None, teacher=None, regularizer="base", seed=seed, params={}, steps=1, losses=[1.0], device="cpu",
            precision="float32", versions={},
        ),
    )  # fmt: skip
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", LARGE)


def test_a_folder_comes_back_as_it_was_put(tmp_path: Path, store: Store) -> None:
    folder = finish(tmp_path / "kd", 0, "one")
    before = contents(folder)
    store.put("trials", "one", folder)
    shutil.rmtree(folder)
    assert store.take("trials", "one", folder)
    assert contents(folder) == before
    assert not store.take("trials", "two", tmp_path / "none")
    assert not store.take("teachers", "one", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_changes_and_changes_back_is_not_run_again(tmp_path: Path, store: Store) -> None:
    """alpha 0.5, 0.9, 0.5: the third time every file is the first time's."""
    root = tmp_path / "kd"
    before = {seed: contents(finish(root, seed, f"half-{seed}")) for seed in (0, 1)}
    assert missing_seeds(root, {0: "most-0", 1: "most-1"}, store=store) == [0, 1]
    finish(root, 0, "most-0")
    assert missing_seeds(root, {0: "half-0", 1: "half-1"}, store=store) == []
    assert {seed: contents(trial_folder(root, seed)) for seed in (0, 1)} == before
    assert missing_seeds(root, {0: "most-0"}, store=store) == []
    assert [entry.identity for entry in store.entries()] != []


@pytest.mark.parametrize("damage", ["flip", "remove", "add", "seal", "other"])
def test_a_damaged_entry_is_never_taken(tmp_path: Path, store: Store, damage: str) -> None:
    root = tmp_path / "kd"
    store.put("trials", "one", finish(root, 0, "one"))
    entry = store.folder / "trials" / "one"
    shard = entry / "content/logits/validation/part-00000.parquet"
    if damage == "flip":
        data = bytearray(shard.read_bytes())
        data[30] ^= 1
        shard.write_bytes(data)
    elif damage == "remove":
        shard.unlink()
    elif damage == "add":
        (entry / "content" / "more").write_text("x")
    elif damage == "seal":
        (entry / "seal.json").write_text("{")
    else:  # another trial under this name, well sealed
        shutil.rmtree(entry)
        store.put("trials", "two", finish(root, 1, "two"))
        (store.folder / "trials" / "two").rename(entry)
    shutil.rmtree(root)
    assert missing_seeds(root, {0: "one"}, store=store) == [0]
    assert not trial_folder(root, 0).exists()


@pytest.mark.parametrize("target", ["/dev/zero", "/", "..", "nowhere", "pipe"])
def test_what_was_never_put_is_not_copied(tmp_path: Path, store: Store, target: str) -> None:
    """An endless device would fill the disk, a pipe would block, a folder may be everything there is."""
    root = tmp_path / "kd"
    store.put("trials", "one", finish(root, 0, "one"))
    more = store.folder / "trials/one/content/more"
    os.mkfifo(more) if target == "pipe" else more.symlink_to(target)
    shutil.rmtree(root)
    assert missing_seeds(root, {0: "one"}, store=store) == [0]
    assert not (store.folder / "trials/one").exists()


@pytest.mark.parametrize("target", ["/dev/zero", "/", ".."])
def test_a_folder_with_links_out_of_it_is_not_put(tmp_path: Path, store: Store, target: str) -> None:
    folder = finish(tmp_path / "kd", 0, "one")
    (folder / "more").symlink_to(target)
    with pytest.raises(KdcacheError, match=r"more: is (no regular file|a link to a folder)"):
        store.put("trials", "one", folder)
    assert store.entries() == []


def test_a_file_that_dvc_links_is_put_as_a_file(tmp_path: Path, store: Store) -> None:
    folder = finish(tmp_path / "kd", 0, "one")
    before, result = contents(folder), folder / "result.json"
    result.rename(tmp_path / "kept")
    result.symlink_to(tmp_path / "kept")
    store.put("trials", "one", folder)
    shutil.rmtree(folder)
    assert store.take("trials", "one", folder)
    assert contents(folder) == before
    assert not result.is_symlink()


@pytest.mark.parametrize("size", ["1e999", "-5", '"7"', "null", "true", "9" * 5000])
def test_sizes_that_somebody_wrote_are_counted_anew(tmp_path: Path, store: Store, size: str) -> None:
    store.put("trials", "one", finish(tmp_path / "kd", 0, "one"))
    (counted,) = store.entries()
    for file in (store.folder / "total.json", counted.folder / "seal.json"):
        said = json.loads(file.read_text())
        file.write_text(json.dumps({**said, "bytes": "SIZE"}).replace('"SIZE"', size))
    assert store.entries()[0].bytes >= counted.bytes
    store.put("trials", "two", finish(tmp_path / "kd", 1, "two"))
    assert json.loads((store.folder / "total.json").read_text())["bytes"] >= 2 * counted.bytes


def test_a_sealed_trial_of_another_identity_is_not_kept(tmp_path: Path, store: Store) -> None:
    """Poison: whoever can write the store can seal what they like, but not make it another trial."""
    root = tmp_path / "kd"
    store.put("trials", "wanted", finish(root, 0, "something else"))
    shutil.rmtree(root)
    assert missing_seeds(root, {0: "wanted"}, store=store) == [0]
    assert not trial_folder(root, 0).exists()


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", LARGE)
    for seed, identity in enumerate(("old", "used", "new")):
        store.put("trials", identity, finish(tmp_path / "kd", seed, identity))
        os.utime(store.folder / "trials" / identity / "seal.json", (seed, seed))
    assert store.take("trials", "old", tmp_path / "taken")  # now the newest
    size = store.entries()[0].bytes
    assert [entry.identity for entry in store.free(2 * size + 10)] == ["used"]
    assert {entry.identity for entry in store.entries()} == {"old", "new"}


def test_putting_keeps_to_the_limit(tmp_path: Path) -> None:
    first = finish(tmp_path / "kd", 0, "first")
    size = sum(len(data) for data in contents(first).values())
    store = Store(tmp_path / "store", int(2.5 * size))
    store.put("trials", "first", first)
    os.utime(store.folder / "trials/first/seal.json", (1, 1))
    for seed in (1, 2):
        store.put("trials", f"next-{seed}", finish(tmp_path / "kd", seed, f"next-{seed}"))
    assert {entry.identity for entry in store.entries()} == {"next-1", "next-2"}


def test_a_killed_put_leaves_no_entry(tmp_path: Path, store: Store) -> None:
    folder = finish(tmp_path / "kd", 0, "one")
    script = f"""
import os, signal
from pathlib import Path
from kdcache.trials import store
store._checksums = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
store.Store(Path({str(store.folder)!r}), 10**9).put("trials", "one", Path({str(folder)!r}))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert store.entries() == []
    assert not store.take("trials", "one", tmp_path / "none")
    store.put("trials", "one", folder)
    assert store.take("trials", "one", tmp_path / "again")


def test_what_a_killed_put_left_is_removed_when_it_is_old(tmp_path: Path, store: Store) -> None:
    store.put("trials", "one", finish(tmp_path / "kd", 0, "one"))
    old, young = (store.folder / "trials" / f".{name}.0123abcd" for name in ("old", "young"))
    for copy in (old, young):
        (copy / "content").mkdir(parents=True)
    os.utime(old, (1, 1))
    assert store.free() == []
    assert young.is_dir()
    assert not old.exists()


def test_a_copy_that_is_finished_meanwhile_is_no_error(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("trials", "one", finish(tmp_path / "kd", 0, "one"))
    glob = Path.glob

    def and_gone(folder: Path, pattern: str) -> list[Path]:
        return [*glob(folder, pattern), *([folder / ".gone.0123abcd"] if pattern == ".*" else [])]

    monkeypatch.setattr(Path, "glob", and_gone)
    assert store.free() == []


def test_two_processes_may_put_the_same(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes to its rename just after the first's."""
    folder, rename = finish(tmp_path / "kd", 0, "one"), os.rename

    def beaten(copy: Path, entry: Path) -> None:
        shutil.copytree(copy, entry)
        rename(copy, entry)

    monkeypatch.setattr(os, "rename", beaten)
    store.put("trials", "one", folder)
    monkeypatch.undo()
    assert store.take("trials", "one", tmp_path / "taken")


def test_a_trial_that_cannot_be_stored_is_not_removed(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parameters changed, and the disk is full: it would be lost."""
    folder = finish(tmp_path / "kd", 0, "one")
    before = contents(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("kdcache.trials.store.copy_folder", full)
    with pytest.raises(
        TrialError, match=r"cannot be stored: No space left on device\); free space, or set KDCACHE"
    ):
        missing_seeds(tmp_path / "kd", {0: "two"}, store=store)
    assert contents(folder) == before


@pytest.mark.parametrize("error", [PermissionError(errno.EPERM, "not yours"), FileNotFoundError()])
def test_what_was_taken_is_taken_even_if_that_cannot_be_noted(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """The store is somebody else's, or another process has just freed the entry."""
    folder = finish(tmp_path / "kd", 0, "one")
    before = contents(folder)
    store.put("trials", "one", folder)
    shutil.rmtree(folder)

    set_time = os.utime

    def refused(path: Path, *given: object, **more: object) -> None:
        if Path(path).name == "seal.json":
            raise error
        set_time(path, *given, **more)

    monkeypatch.setattr(os, "utime", refused)
    assert store.take("trials", "one", folder)
    assert contents(folder) == before


def rot(store: Store, identity: str) -> None:
    """Change a byte of an entry."""
    file = store.folder / "trials" / identity / "content/result.json"
    file.write_bytes(file.read_bytes().replace(b"scratch", b"scrotch"))


def test_a_trial_is_put_aside_although_the_store_has_it_damaged(tmp_path: Path, store: Store) -> None:
    """Its folder is removed next: it is the only good copy."""
    root = tmp_path / "kd"
    folder = finish(root, 0, "one")
    before = contents(folder)
    store.put("trials", "one", folder)
    rot(store, "one")
    assert missing_seeds(root, {0: "two"}, store=store) == [0]
    assert missing_seeds(root, {0: "one"}, store=store) == []
    assert contents(folder) == before


def test_a_whole_entry_is_not_written_again(tmp_path: Path, store: Store) -> None:
    folder = finish(tmp_path / "kd", 0, "one")
    store.put("trials", "one", folder)
    seal = store.folder / "trials/one/seal.json"
    before = seal.stat().st_ino
    store.put("trials", "one", folder, check=True)
    assert seal.stat().st_ino == before


def test_a_damaged_entry_that_cannot_be_removed(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not taken, and not taken for a copy either."""
    folder = finish(tmp_path / "kd", 0, "one")
    store.put("trials", "one", folder)
    rot(store, "one")
    remove = shutil.rmtree
    entry = store.folder / "trials" / "one"
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, *a, **o: None if path == entry else remove(path, *a, **o)
    )
    assert not store.take("trials", "one", tmp_path / "taken")
    assert (
        "trials/one: is not used (its files are not as they were stored) and cannot be removed" in caplog.text
    )
    with pytest.raises(TrialError, match="is not removed because it cannot be put into the store"):
        missing_seeds(tmp_path / "kd", {0: "two"}, store=store)
    assert folder.is_dir()


def test_what_is_larger_than_the_store_is_not_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", 10_000_000)
    small = finish(tmp_path / "kd", 0, "small")
    store.put("trials", "small", small)
    large = finish(tmp_path / "kd", 1, "large")
    (large / "model").mkdir()
    (large / "model" / "weights").write_bytes(bytes(10_000_001))  # a model is not stored
    store.put("trials", "large", large)
    (large / "more").write_bytes(bytes(10_000_001))
    with pytest.raises(
        KdcacheError, match=r"seed-1: 0\.01 GB, larger than KDCACHE_STORE_GB=0\.01: not stored"
    ):
        store.put("trials", "larger", large)
    assert {entry.identity for entry in store.entries()} == {"small", "large"}


def test_a_trial_that_is_larger_than_the_store_is_not_removed(tmp_path: Path) -> None:
    folder = finish(tmp_path / "kd", 0, "one")
    before = contents(folder)
    message = r"seed-0: is no longer asked for.* larger than KDCACHE_STORE_GB=1e-06: not stored\); free space, or set"
    with pytest.raises(TrialError, match=message):
        missing_seeds(tmp_path / "kd", {0: "two"}, store=Store(tmp_path / "store", 1000))
    assert contents(folder) == before


def test_what_was_just_put_is_not_freed(tmp_path: Path) -> None:
    """Whatever the times of the others: they may come from another machine's clock."""
    first = finish(tmp_path / "kd", 0, "first")
    store = Store(tmp_path / "store", int(1.5 * sum(len(data) for data in contents(first).values())))
    store.put("trials", "first", first)
    os.utime(store.folder / "trials/first/seal.json", (2**32, 2**32))
    store.put("trials", "second", finish(tmp_path / "kd", 1, "second"))
    assert [entry.identity for entry in store.entries()] == ["second"]


def test_an_entry_that_cannot_be_counted_is_stored(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    (store.folder / "total.json").mkdir(parents=True)
    store.put("trials", "one", finish(tmp_path / "kd", 0, "one"))
    assert "the store's size is not known" in caplog.text
    assert store.take("trials", "one", tmp_path / "taken")


def test_a_finished_trial_stays_finished_without_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDCACHE_STORE", str(tmp_path / "file" / "store"))
    monkeypatch.setattr(
        "kdcache.trials.run.run_trial", lambda plan: finish(tmp_path / "kd", 0, plan.identity)
    )
    plan = SimpleNamespace(folder=trial_folder(tmp_path / "kd", 0), identity="one", keep_model=False)
    run_and_store(plan)
    assert finished_result(plan.folder).identity == "one"
    assert "seed-0: is finished, but not stored: " in caplog.text
    assert "cannot be stored: Not a directory" in caplog.text


def test_a_trial_that_is_taken_has_the_names_that_are_asked_for(tmp_path: Path, store: Store) -> None:
    """An identity has no names: the student may have been renamed, or two students may be equal."""
    folder = finish(tmp_path / "old", 0, "one")
    was = finished_result(folder)
    write_result(folder, was.model_copy(update={"task": "words", "student": "old", "regularizer": "plain"}))
    store.put("trials", "one", folder)
    assert missing_seeds(tmp_path / "new", {0: "one"}, store=store) == []
    now = finished_result(trial_folder(tmp_path / "new", 0))
    assert (now.task, now.student, now.regularizer) == ("task", "student", "base")
    assert now.model_copy(update={"checkpoint": was.checkpoint, "init": was.init, "params": {}}) == was
    assert now.params["student"]["checkpoint"] == now.checkpoint == "none"


def test_experiments_in_temporary_copies_share_the_projects_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "project/.dvc/tmp/exps/tmpabc"
    copy.mkdir(parents=True)
    for place in (tmp_path / "project", copy):
        monkeypatch.chdir(place)
        store = project_store()
        assert store is not None
        assert store.folder == tmp_path / "project/.kdcache/store"
    monkeypatch.setenv("KDCACHE_STORE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("KDCACHE_STORE_GB", "0.5")
    store = project_store()
    assert store is not None
    assert (store.folder, store.limit) == (tmp_path / "elsewhere", 500_000_000)
    monkeypatch.setenv("KDCACHE_STORE", "off")
    assert project_store() is None


@pytest.mark.parametrize("size", ["", "x", "0", "-1", "inf", "nan"])
def test_a_size_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("KDCACHE_STORE_GB", size)
    with pytest.raises(TrialError, match="KDCACHE_STORE_GB must be a number of gigabytes above 0"):
        project_store()
