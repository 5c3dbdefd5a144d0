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


BROKEN = [
    ("params.yaml", b"seeds: 2\n# caf\xe9\n", "params.yaml: line 2: not UTF-8; save it as UTF-8\n"),
    (
        "params.yaml",
        b"seeds: 2\0\n",
        "params.yaml: line 1: expected text, found a NUL byte; save it as UTF-8",
    ),
    ("metrics/trials.csv", b"task\nst\xe9\n", "metrics/trials.csv: line 2: not UTF-8; save it as UTF-8\n"),
    (
        "metrics/comparisons.csv",
        b"\xff\xfet\0",
        "metrics/comparisons.csv: line 1: not UTF-8; save it as UTF-8\n",
    ),
    (
        "metrics/comparisons.csv",
        b"task\nnew\0s\n",
        "metrics/comparisons.csv: line 2: expected text, found a NUL",
    ),
    ("params.yaml", b"a: [", "params.yaml: 1 mistake\n  is not valid YAML: line 1"),
    ("metrics/trials.csv", b"", "metrics/trials.csv: expected a CSV table, found: No columns"),
]


@pytest.mark.parametrize("committed", [True, False], ids=["revision", "folder"])
@pytest.mark.parametrize(("file", "content", "said"), BROKEN)
def test_a_file_that_cannot_be_read_is_named_in_a_folder_and_in_a_revision(
    study: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes, said: str, committed: bool
) -> None:
    (study / file).write_bytes(content)
    git("commit", "--quiet", "--all", "-m", "broken")
    assert compare("HEAD" if committed else ".", "old") == 1
    message = capsys.readouterr().err
    assert said in message
    assert message.startswith("kdcache: HEAD: " if committed else "kdcache: ")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("seed", "first", "column seed: expected numbers, found 'first'"),
        ("seed", "", "column seed: expected whole numbers, found nan"),
        ("seed", "1.5", "column seed: expected whole numbers, found 1.5"),
        ("accuracy", "good", "column accuracy: expected numbers, found 'good'"),
        ("macro_f1", "inf", "column macro_f1: expected numbers, found inf"),
    ],
)
def test_a_trial_without_numbers_is_named(
    study: Path, capsys: pytest.CaptureFixture[str], column: str, value: str, said: str
) -> None:
    trials = samples.trials()
    trials[column] = trials[column].astype(object)
    trials.loc[0, column] = value
    trials.to_csv(study / "metrics" / "trials.csv", index=False)
    assert compare("old", ".", "--json") == 1
    assert f".: metrics/trials.csv: {said}" in capsys.readouterr().err


def test_a_failed_trial_is_left_out(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = samples.trials()
    trials.loc[0, "accuracy"] = float("nan")
    trials.to_csv(study / "metrics" / "trials.csv", index=False)
    assert compare("old", ".", "--json") == 0
    first = found(capsys)["configurations"][0]
    assert (first["a"]["seeds"], first["b"]["seeds"]) == (5, 4)


def test_a_name_of_other_bytes_among_the_experiments(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git("update-ref", os.fsdecode(b"refs/exps/12/34/caf\xe9"), "old")
    assert compare("nowhere", ".") == 1
    assert "nowhere: neither a folder nor a Git revision" in capsys.readouterr().err
    assert compare(os.fsdecode(b"caf\xe9"), "old", "--json") == 0


def test_a_run_of_the_baseline_alone_has_its_score(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = samples.trials()
    trials[trials["regularizer"] == "base"].to_csv(study / "metrics" / "trials.csv", index=False)
    comparisons = study / "metrics" / "comparisons.csv"
    comparisons.write_text(comparisons.read_text().splitlines()[0] + "\n")
    assert compare(".", "old") == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "vit-tiny" in line and " base " in line]
    assert [cell.strip() for cell in row.split("│")[4:6]] == ["95.0 ± 0.2", "95.0 ± 0.2"]


def test_without_a_repository_folders_can_be_compared(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare(str(study), str(study), "--json") == 0
    assert compare("old", str(study)) == 1
    assert "neither a folder nor a Git revision" in capsys.readouterr().err
