"""A project that `kdcache init` wrote is a repository of Git and of DVC, and DVC takes its pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
