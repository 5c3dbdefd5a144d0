"""A DatasetDict that save_to_disk wrote: what it delivers, and what each refusal says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from kdcache.errors import TaskError
from kdcache.study import Task
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.sources import load_source
from tests.tasks.files import read

TRAIN = {"text": ["good", "bad", "fine"], "label": [1, 0, 1]}
TEST = {"text": ["poor"], "label": [0]}


def task(saved: Path, **source: Any) -> Task:
    given = {"source": {"saved": str(saved), **source}, "text": ["text"], "metrics": ["accuracy"]}
    return Task.model_validate({**given, "max_length": 8})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    parts = {"train": TRAIN, "test": TEST}
    data = DatasetDict({name: Dataset.from_dict(rows, features) for name, rows in parts.items()})
    data.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_its_splits_by_their_names(saved: Path, tmp_path: Path) -> None:
    loaded = load_source(task(saved, splits={"validation": "test"}))
    assert read(loaded) == TRAIN
    assert read(loaded, "validation") == TEST
    assert loaded.splits["train"].names == ["neg", "pos"]
    assert loaded.resolved["saved"] == saved.as_posix()
    card = prepare_task(task(saved, splits={"validation": "test"}), tmp_path / "out")
    assert card.class_counts == {"train": [1, 2], "validation": [1, 0]}


def test_rows_that_were_filtered_or_given_a_format_before_saving(tmp_path: Path) -> None:
    data = Dataset.from_dict(TRAIN).select([2, 0]).with_format("numpy")
    DatasetDict({"train": data, "validation": data}).save_to_disk(tmp_path / "saved")
    assert read(load_source(task(tmp_path / "saved"))) == {"text": ["fine", "good"], "label": [1, 1]}


def refusal(message: str, saved: Path, **source: Any) -> None:
    declared = task(saved, **source)
    with pytest.raises(TaskError, match=message):
        read(load_source(declared))


def test_what_is_not_there(saved: Path, tmp_path: Path) -> None:
    refusal("no split 'validation'; there are: train, test; .*`splits: {validation: ...}`", saved)
    refusal("nowhere: the folder does not exist; expected what", tmp_path / "nowhere")
    refusal("train: holds one Dataset without splits; expected a DatasetDict", saved / "train")
    refusal("holds no dataset_dict.json; expected a DatasetDict", tmp_path)
    refusal("is no folder", saved / "dataset_dict.json")


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    data = Dataset.from_dict({"text": ["a"]})
    DatasetDict({"train": data, "validation": data}).save_to_disk(tmp_path / "saved")
    refusal("no column 'label'; there are: text", tmp_path / "saved")


@pytest.mark.parametrize("content", ["{", "[]", '{"splits": 3}', '{"splits": [3]}'])
def test_a_damaged_list_of_splits(saved: Path, content: str) -> None:
    (saved / "dataset_dict.json").write_text(content)
    refusal(r"dataset_dict\.json", saved)


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_arrow_file(saved: Path, keep: int) -> None:
    arrow = next((saved / "train").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:keep])
    refusal(
        "train: .*saved/train: cannot be read as a saved Dataset: .*save it again",
        saved,
        splits={"validation": "test"},
    )


@pytest.mark.parametrize("pattern", ["*.arrow", "state.json", "dataset_info.json"])
def test_a_pipe(saved: Path, pattern: str) -> None:
    path = next((saved / "train").glob(pattern))
    path.unlink()
    os.mkfifo(path)
    refusal(f"train: .*{path.name}: is a pipe, socket or device", saved, splits={"validation": "test"})


def test_a_text_that_is_none(saved: Path) -> None:
    """Arrow maps the file into memory and looks at nothing."""
    arrow = next((saved / "train").glob("*.arrow"))
    content = arrow.read_bytes()
    assert content.count(b"goodbadfine") == 1
    arrow.write_bytes(content.replace(b"goodbadfine", b"good\xff\xfe\xfdfine"))
    refusal("cannot be read as a saved Dataset: .*UTF", saved, splits={"validation": "test"})


def test_a_damaged_state(saved: Path) -> None:
    state = saved / "train" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "_data_files": [{"filename": "no.arrow"}]}))
    refusal("cannot be read as a saved Dataset", saved, splits={"validation": "test"})
