"""`kdcache compare-runs`: revisions, DVC experiments and folders; what is none, or lacks a file, is refused clearly."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from kdcache.cli import main
from tests.report import samples

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]


def git(*arguments: str) -> None:
    subprocess.run([*GIT, *arguments], check=True, capture_output=True)


def compare(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["compare-runs", *arguments])
    return int(stopped.value.code or 0)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a study in a folder of it; the tag `old`, and KD one point better in the working folder."""
    folder = tmp_path / "repository" / "study"
    samples.write(folder / "metrics")
    (folder / "params.yaml").write_text(samples.PARAMS)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git("init", "--quiet", "..")
    git("add", ".")
    git("commit", "--quiet", "-m", "results")
    git("tag", "old")
    trials = samples.trials()
    kd = (trials["student"] == "vit-tiny") & (trials["regularizer"] == "kd")
    trials.loc[kd, "accuracy"] += 0.01
    trials.loc[kd, "identity"] += "-again"
    trials.to_csv(folder / "metrics" / "trials.csv", index=False)
    (folder / "params.yaml").write_text(
        samples.PARAMS.replace(
            "kd: {soft_labels: teacher, alpha: 0.5", "kd: {soft_labels: teacher, alpha: 0.9"
        )
    )
    return folder


def found(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_revision_against_the_working_folder(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("old", ".", "--json") == 0
    result = found(capsys)
    assert result["params"] == [{"path": "distillers.kd.alpha", "a": "0.5", "b": "0.9"}]
    (moved,) = [row for row in result["configurations"] if not row["same"]]
    assert (moved["student"], moved["regularizer"]) == ("vit-tiny", "kd")
    assert (moved["a"]["mean"], moved["b"]["mean"]) == (pytest.approx(95.6), pytest.approx(96.6))
    assert (moved["change"], moved["a"]["verdict"]) == (pytest.approx(1.0), "inconclusive")
    assert len(result["configurations"]) == 15


def test_what_people_see(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("old", ".") == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "vit-tiny" in line and " kd " in line]
    assert [cell.strip() for cell in row.split("│")[4:7]] == ["95.6 ± 0.2", "96.6 ± 0.2", "+1.00"]
    assert sum("same trials" in line for line in lines) == 14


def test_a_dvc_experiment_has_a_name(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git("update-ref", "refs/exps/12/34/hot-kd", "old")
    assert compare("hot-kd", "old", "--json") == 0
    assert all(row["same"] for row in found(capsys)["configurations"])


def test_a_name_of_two_experiments_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git("update-ref", "refs/exps/12/34/hot-kd", "old")
    git("commit", "--quiet", "--allow-empty", "-m", "later")
    git("update-ref", "refs/exps/56/78/hot-kd", "HEAD")
    assert compare("hot-kd", "old") == 1
    assert "hot-kd: 2 DVC experiments are called so; name one by its hash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "."), "nowhere: neither a folder nor a Git revision"),
        (("--", "--output=x", "."), "--output=x: neither a folder nor a Git revision"),
        (("old", ".", "--metrics", "results"), "old: has no results/trials.csv"),
        ((".", "old", "--params", "study.yaml"), "study.yaml: cannot be read (No such file or directory)"),
        (("..", "."), "metrics/trials.csv: cannot be read"),
    ],
)
def test_what_is_not_there_is_named(
    study: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert compare(*arguments) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metrics/trials.csv", "a,b\n1,2\n", "expected the columns task, student"),
        ("params.yaml", "- a\n", "expected a mapping with seeds, tasks, students, ..., found ['a']"),
        ("params.yaml", "a: [", "is not valid YAML: line 1"),
    ],
)
def test_a_file_that_is_something_else_is_named(
    study: Path, capsys: pytest.CaptureFixture[str], file: str, content: str, said: str
) -> None:
    (study / file).write_text(content)
    assert compare("old", ".") == 1
    message = capsys.readouterr().err
    assert f".: {file}" in message
    assert said in message


def test_without_a_repository_folders_can_be_compared(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare(str(study), str(study), "--json") == 0
    assert compare("old", str(study)) == 1
    assert "neither a folder nor a Git revision" in capsys.readouterr().err
