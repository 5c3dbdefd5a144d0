"""A prepared task as an object: its card, read once, and the rows of its splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcache.errors import TaskError
from kdcache.study import Task
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask


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


def test_the_card_is_read_once(tmp_path: Path, card: TaskCard) -> None:
    task = PreparedTask(tmp_path / "task")
    (tmp_path / "task" / "card.json").unlink()
    assert task.rows("train", ["label"]).to_pydict() == {"label": [1, 0]}
    with pytest.raises(TaskError, match=r"no card\.json"):
        PreparedTask(tmp_path / "task")
