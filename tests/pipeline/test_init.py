"""A project that `kdcache init` wrote is a repository of Git and of DVC, and DVC takes its pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdcache.errors import KdcacheError
from kdcache.repro.init import start_project


def said(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_in_an_empty_folder(tmp_path: Path) -> None:
    start_project(tmp_path / "p", "images")
    folder = tmp_path / "p"
    assert said(folder, "git", "rev-parse", "--show-toplevel").strip() == str(folder.resolve())
    stages = said(folder, sys.executable, "-m", "dvc", "stage", "list", "--name-only").split()
    assert {name.split("@")[0] for name in stages} == {
        *("prepare", "teach", "cache", "tune", "train", "distill", "compare", "report")
    }
    ignored = said(folder, "git", "status", "--short", "--untracked-files=all")
    assert "data/models/vit-tiny/config.json" in ignored
    assert "analytics = false" in (folder / ".dvc/config").read_text()


def test_inside_a_repository_of_git(tmp_path: Path) -> None:
    said(tmp_path, "git", "init", "--quiet")
    start_project(tmp_path / "studies" / "p", "images")
    assert not (tmp_path / "studies/p/.git").exists()
    assert (tmp_path / "studies/p/.dvc/plots/gains.json").is_file()


def test_where_git_ignores_the_folder_dvc_s_reason_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    said(tmp_path, "git", "init", "--quiet")
    (tmp_path / ".gitignore").write_text("sub/\n")
    for _ in range(2):  # the second time it is as the first
        with pytest.raises(KdcacheError, match=r"`dvc init` failed, .*\.dvc is ignored by your SCM tool"):
            start_project(tmp_path / "sub" / "p", "images")
        assert not (tmp_path / "sub").exists()
    (tmp_path / "sub" / "mine").mkdir(parents=True)
    (tmp_path / "sub" / "mine" / "notes.txt").touch()
    with pytest.raises(KdcacheError, match="ignored by your SCM tool"):
        start_project(tmp_path / "sub" / "mine", "images")
    assert [path.name for path in (tmp_path / "sub" / "mine").iterdir()] == ["notes.txt"]


def test_a_repository_that_was_begun_is_removed_if_dvc_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(KdcacheError, match="`dvc init` failed, so nothing is written: exit code 1"):
        start_project(tmp_path, "images")
    assert list(tmp_path.iterdir()) == []
