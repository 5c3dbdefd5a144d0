"""Prepared tasks are opened once a process, and anew when they were prepared again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdcache.errors import TaskError
from kdcache.study import Task
from kdcache.tasks import prepared
from kdcache.tasks.card import TaskCard, read_card
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask, open_task


def prepare(folder: Path, text: str) -> TaskCard:
    """A task of the rows of a CSV file, in `folder`/task."""
    (folder / "rows.csv").write_text(text)
    files = {"train": str(folder / "rows.csv"), "validation": str(folder / "rows.csv")}
    given = {"source": {"files": files}, "text": ["text"], "metrics": ["accuracy"], "max_length": 8}
    return prepare_task(Task.model_validate(given), folder / "task")


@pytest.fixture
def card(tmp_path: Path) -> TaskCard:
    return prepare(tmp_path, "text,label\ngood,1\nbad,0\n")


def test_a_task_has_its_card_and_its_rows(tmp_path: Path, card: TaskCard) -> None:
    task = PreparedTask(tmp_path / "task")
    assert task.card == card
    assert task.folder == tmp_path / "task"
    assert task.rows("validation", ["text"]).to_pydict() == {"text": ["good", "bad"]}
    assert task.rows("train").column_names == ["id", "row_hash", "text", "label"]
    with pytest.raises(TaskError, match="no split 'test'; there are: train, validation"):
        task.rows("test")


def test_a_task_is_opened_once(tmp_path: Path, card: TaskCard, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(prepared, "read_card", lambda folder: read.append(folder) or read_card(folder))
    tasks = [open_task(tmp_path / "task") for _ in range(3)]
    tasks[0].rows("train")
    assert tasks[0] is tasks[1] is tasks[2]
    assert read == [tmp_path / "task"]


def test_a_task_that_was_prepared_again_is_opened_anew(tmp_path: Path, card: TaskCard) -> None:
    before = open_task(tmp_path / "task")
    prepare(tmp_path, "text,label\nfine,1\npoor,0\n")
    after = open_task(tmp_path / "task")
    assert before.card.fingerprint != after.card.fingerprint
    assert after.rows("train", ["text"]).to_pydict() == {"text": ["fine", "poor"]}
    (tmp_path / "task" / "card.json").unlink()
    with pytest.raises(TaskError, match=r"no card\.json"):
        open_task(tmp_path / "task")


def test_a_relative_folder_is_that_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("a", "good"), ("b", "fine")):
        (tmp_path / name).mkdir()
        prepare(tmp_path / name, f"text,label\n{text},1\nbad,0\n")
        os.utime(tmp_path / name / "task" / "card.json", (0, 0))
        monkeypatch.chdir(tmp_path / name)
        assert open_task(Path("task")).rows("train", ["text"]).to_pydict()["text"][0] == text
