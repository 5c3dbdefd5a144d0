"""The stage `prepare`: what it writes, and how it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import TaskError
from kdcache.tasks.card import TaskCard, read_card
from kdcache.tasks.prepare import prepare_task
from stages import stage_errors
from stages.prepare import main

STUDY = """
seeds: [0]
tasks:
  films:
    source: {files: {train: train.csv, validation: train.csv}}
    text: [text]
    metrics: [accuracy]
    max_length: 8
teachers: {}
students: {tiny: {checkpoint: tiny, learning_rate: 0.001, epochs: 1, batch_size: 8}}
regularizers: {base: {}}
distillers: {}
comparison: {baseline: base, margin: {accuracy: 1.0}}
"""


@pytest.fixture(autouse=True)
def _study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(STUDY)
    Path("train.csv").write_text("text,label\ngood,1\nbad,0\n")


def test_a_task_is_prepared_under_data() -> None:
    main(["--task", "films"])
    assert read_card(Path("data/tasks/films")).rows == {"train": 2, "validation": 2}


def test_options() -> None:
    Path("params.yaml").rename("other.yaml")
    main(["--task", "films", "--params", "other.yaml", "--out", "elsewhere"])
    assert read_card(Path("elsewhere")).name == "films"


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    return capsys.readouterr().err


def test_errors_are_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(capsys, ["--task", "nope"]) == "error: params.yaml: no task 'nope'; there are: films\n"
    Path("train.csv").write_text("text,label\n")
    assert fails(capsys, ["--task", "films"]) == (
        "error: task 'films': train: train.csv: there are no rows\n"
    )
    assert "params.yaml: 1 mistake" not in fails(capsys, ["--task", "films", "--params", "train.csv"])
    Path("params.yaml").unlink()
    assert "params.yaml: 1 mistake\n  the file does not exist" in fails(capsys, ["--task", "films"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    max_length: 8", "    max_length: 4"),
        ("  films:", "  plays:"),
        ("epochs: 1", "epochs: 2"),  # nothing that this stage depends on
    ],
)
def test_a_task_that_changes_while_it_is_prepared_is_noticed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    def edit(*arguments: Any) -> TaskCard:
        card = prepare_task(*arguments)
        Path("params.yaml").write_text(STUDY.replace(old, new))
        return card

    monkeypatch.setattr("stages.prepare.prepare_task", edit)
    if "epochs" in old:
        main(["--task", "films"])
        return
    message = fails(capsys, ["--task", "films"])
    assert "error: params.yaml: tasks.films was changed while the task was prepared; " in message


def test_stage_errors_lets_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), stage_errors():
        _ = 1 / 0
    with pytest.raises(SystemExit), stage_errors():
        raise TaskError("for people")
