"""Files are whole or absent, and bad JSON gives one clear error."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdcache.errors import KdcacheError
from kdcache.system.files import (
    MOST_JSON,
    copy_folder,
    read_json,
    remove_folder,
    write_atomically,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_bytes_and_makes_the_folder(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomically(path, b"abc")
    assert path.read_bytes() == b"abc"
    assert names(path.parent) == ["file.bin"]


def test_writes_what_a_function_writes_and_replaces(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


def test_mode_follows_the_umask(tmp_path):
    path, plain = tmp_path / "atomic", tmp_path / "plain"
    write_atomically(path, b"")
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


def test_an_error_of_the_function_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def broken(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        write_atomically(path, broken)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_full_disk_leaves_the_old_file_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KdcacheError, match=r"file\.txt: cannot be written: No space left.*free some space"):
        write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_real_write_that_the_system_refuses(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from kdcache.system.files import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomically(Path(sys.argv[1]) / 'big', b'x' * 5000)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "KdcacheError" in result.stderr
    assert "big: cannot be written: File too large" in result.stderr
    assert names(tmp_path) == []


def test_json_round_trip(tmp_path):
    value = {"b": [1, 2.5, None, True], "a": "ü"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert list(read_json(tmp_path / "x.json")) == ["b", "a"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": object()}, "\ud800"])
def test_what_is_not_json_is_not_written(tmp_path, value):
    with pytest.raises(KdcacheError, match=r"x\.json: not written"):
        write_json(tmp_path / "x.json", value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"NaN", b'{"a": Infinity}', b"[" * 100_000])
def test_what_is_not_json_is_not_read(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(KdcacheError, match=r"x\.json: is not valid JSON"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "c": 0, "a": 1}}]'])
def test_a_key_that_is_there_twice_is_refused_in_our_files(tmp_path, text):
    """Of two values a reader would take the last; in another tool's file that is what the tool itself does."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(KdcacheError, match=r"x\.json: is not valid JSON \(the key 'a' is there twice\)"):
        read_json(path)
    assert read_json(path, ours=False) == json.loads(text)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"kept": 1})
    with pytest.raises(
        KdcacheError, match=r"not written, the content has 16,777,2.. bytes, of which at most 16,777,216"
    ):
        write_json(path, ["x" * MOST_JSON])
    assert read_json(path) == {"kept": 1}
    write_json(path, "x" * (MOST_JSON - 3))  # two quotes and the line's end
    assert len(read_json(path)) == MOST_JSON - 3


def test_missing_json(tmp_path):
    with pytest.raises(KdcacheError, match=r"x\.json: the file does not exist"):
        read_json(tmp_path / "x.json")


def test_a_folder_is_copied_with_what_links_lead_to(tmp_path):
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    (source / "inner").mkdir(parents=True)
    (source / "model").mkdir()
    (source / "model" / "weights").write_text("heavy")
    (source / "inner" / "file").write_text("one")
    (source / "inner" / "file").chmod(0o444)
    (source / "link").symlink_to(source / "inner" / "file")
    copy_folder(source, target, leave_out="model")
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == [
        "inner",
        "inner/file",
        "link",
    ]
    assert not (target / "link").is_symlink()
    (target / "inner" / "file").write_text("two")  # the copy is not protected
    assert (source / "inner" / "file").read_text() == "one"


@pytest.mark.parametrize("target", ["/dev/zero", "/", ".", "..", "pipe"])
def test_a_folder_with_endless_things_is_not_copied(tmp_path, target):
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "more") if target == "pipe" else (source / "more").symlink_to(target)
    with pytest.raises(KdcacheError, match=r"more: is (no regular file|a link to a folder)"):
        copy_folder(source, tmp_path / "target")


def test_a_folder_is_removed_with_what_an_earlier_removal_left(tmp_path):
    for name in ("model", ".model.old.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("heavy")
    remove_folder(tmp_path / "model")
    assert names(tmp_path) == []
    remove_folder(tmp_path / "model")  # there is none


def test_a_folder_is_out_of_its_place_before_its_first_file_is_deleted(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("heavy")
    monkeypatch.setattr(
        "kdcache.system.files.shutil.rmtree", lambda folder, **options: None
    )  # as if killed there
    remove_folder(tmp_path / "model")
    assert names(tmp_path) == [".model.old.tmp"]
