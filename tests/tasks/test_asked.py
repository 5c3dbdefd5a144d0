"""A prepared task's card beside what a study says: every change is noticed, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kdcache.study import Task
from kdcache.tasks.asked import differences
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepare import prepare_task

PREPARED = {
    "text": ["text"],
    "metrics": ["accuracy"],
    "max_length": 16,
    "train_size": 6,
    "unlabelled": "rest",
    "label_noise": 0.5,
    "positive": "b",
}
PICTURES = {"image": "image", "metrics": ["accuracy"]}


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, str]:
    """The files of a task."""
    lines = [f'{{"text": "{place}", "label": "{"ab"[place % 2]}"}}' for place in range(8)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    return {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}


def task(**given: Any) -> Task:
    """A task without the keys that are None."""
    return Task.model_validate({key: value for key, value in given.items() if value is not None})


def prepared(spec: Task, folder: Path) -> TaskCard:
    return prepare_task(spec, folder / "prepared")


@pytest.mark.parametrize(
    ("changes", "place", "found", "asked"),
    [
        ({"max_length": 8}, "max_length", 16, 8),
        ({"metrics": ["macro_f1"]}, "metrics.0", "accuracy", "macro_f1"),
        ({"metrics": ["accuracy", "f1"]}, "metrics", ["accuracy"], ["accuracy", "f1"]),
        ({"train_size": 5}, "train_size", 6, 5),
        ({"train_size": None, "unlabelled": None}, "train_size", 6, None),
        ({"label_noise": 0.25}, "label_noise", 0.5, 0.25),
        ({"label_noise": None}, "label_noise", 0.5, 0.0),
        ({"noise_seed": 3}, "noise_seed", 0, 3),
        ({"unlabelled": None}, "unlabelled", "rest", None),
        ({"positive": "a"}, "positive", "b", "a"),
        ({"text": None, "max_length": None, "image": "image"}, "modality", "text", "image"),
        ({"source": {"builtin": "bbc_headlines"}}, "source.builtin", None, "bbc_headlines"),
    ],
)
def test_a_change_is_named(
    rows: dict[str, str], tmp_path: Path, changes: dict[str, Any], place: str, found: Any, asked: Any
) -> None:
    given = {**PREPARED, "source": {"files": rows}}
    card = prepared(task(**given), tmp_path)
    assert list(differences(card, task(**given))) == []
    assert (place, found, asked) in list(differences(card, task(**{**given, **changes})))


def test_the_positive_class_is_the_second_where_nothing_names_it(
    rows: dict[str, str], tmp_path: Path
) -> None:
    given = {**PREPARED, "positive": None, "source": {"files": rows}}
    second, first = task(**{**given, "positive": "b"}), task(**{**given, "positive": "a"})
    card = prepared(task(**given), tmp_path)
    old = card.model_copy(update={"positive": None})  # of kdcache 0.1
    for same in (card, old):
        assert list(differences(same, task(**given))) == list(differences(same, second)) == []
        assert list(differences(same, first)) == [("positive", "b", "a")]
    card = prepared(first, tmp_path)
    assert list(differences(card, task(**given))) == [("positive", "a", "b")]


def test_other_files_and_splits_are_named(rows: dict[str, str], tmp_path: Path) -> None:
    card = prepared(task(**PREPARED, source={"files": rows}), tmp_path)
    other = {"files": {**rows, "test": "t.csv", "train": "t.csv"}}
    assert list(differences(card, task(**PREPARED, source=other))) == [
        ("splits", sorted([*rows, "unlabelled"]), sorted([*rows, "test", "unlabelled"])),
        ("source.files.train.0.file", rows["train"], "t.csv"),
        ("source.files.test", None, [{"file": "t.csv"}]),
    ]


def test_train_rows_that_are_no_longer_drawn_are_named(rows: dict[str, str], tmp_path: Path) -> None:
    """All rows were drawn: their number alone does not tell."""
    plain = {"text": ["text"], "metrics": ["accuracy"], "max_length": 16, "source": {"files": rows}}
    card = prepared(task(**plain, train_size=8), tmp_path)
    assert list(differences(card, task(**plain))) == [("train_size", 8, None)]


def test_a_task_of_each_source_is_as_it_was_prepared(rows: dict[str, str], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    texts = {split: datasets.Dataset.from_json(path) for split, path in rows.items()}
    datasets.DatasetDict(texts).save_to_disk(str(tmp_path / "saved"))
    for split in rows:
        for label in "ab":
            (tmp_path / "pictures" / split / label).mkdir(parents=True)
            Image.new("L", (4, 4), ord(label)).save(tmp_path / "pictures" / split / label / "0.png")
    folder = str(tmp_path / "pictures")
    several = {"train": [rows["train"]] * 2, "validation": rows["validation"]}
    for number, given in enumerate(
        (
            {**PREPARED, "source": {"saved": f"{tmp_path}/saved/"}},
            {**PREPARED, "source": {"files": several}},
            {**PICTURES, "source": {"folder": folder}, "augment": {"flip": 0.5}},
            {**PICTURES, "source": {"folder": {split: f"{folder}/{split}" for split in rows}}},
            {**PICTURES, "source": {"builtin": "digits"}},
        )
    ):
        spec = task(**given)
        assert list(differences(prepared(spec, tmp_path / str(number)), spec)) == []
