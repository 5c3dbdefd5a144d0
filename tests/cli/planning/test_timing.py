"""Timing a model for `kdcache plan`: on which rows, of which architectures, and what cannot be timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from kdcache.checkpoints.find import find_checkpoint
from kdcache.cli.planning import timing
from kdcache.cli.planning.plan import plan_study
from kdcache.cli.planning.runs import Size
from kdcache.cli.planning.timing import calibrate, time_model
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import Lora, Study, Task
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepare import prepare_task
from kdcache.training.loop import fine_tune
from tests.tiny_models import card, save_checkpoint, student

TEXTS = ["dog", "the dog sat on the red mat"]  # 3 and 9 tokens


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for family in ("bert", "gpt2", "vit"):
        save_checkpoint(root / family, family)
    return root


def study(**changes: Any) -> Study:
    recipe = {"learning_rate": 0.01, "epochs": 1, "batch_size": 2}
    values: dict[str, Any] = {
        "seeds": [0],
        "tasks": {"films": task()},
        "teachers": {},
        "students": {name: {**recipe, **model} for name, model in changes.pop("models").items()},
        "regularizers": {"base": {}},
        "comparison": {"margin": {"accuracy": 1.0}},
    }
    return Study.model_validate({**values, **changes})


def task() -> dict[str, Any]:
    source = {"files": {"train": "rows.csv", "validation": "rows.csv"}}
    return {"source": source, "text": ["text"], "metrics": ["accuracy"], "max_length": 12}


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> TaskCard:
    monkeypatch.chdir(folder)
    Path("rows.csv").write_text("text,label\n" + "\n".join(f"{text},{row}" for row, text in enumerate(TEXTS)))
    return prepare_task(Task.model_validate(task()), Path("data/tasks/films"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rows of every call of the training loop."""
    calls: list[Any] = []
    inner = fine_tune

    def watched(model: Any, split: Any, *rest: Any) -> Any:
        calls.append(split)
        return inner(model, split, *rest)

    monkeypatch.setattr(timing, "fine_tune", watched)
    return calls


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_a_model_is_timed(models: Path, trained: list[Any], family: str) -> None:
    modality = "image" if family == "vit" else "text"
    model = student(models / family, init="scratch", batch_size=3, epochs=1)
    speed = time_model(model, card(classes=3, modality=modality), None, steps=2)
    assert (speed.device, speed.source) == ("cpu", "calibration")
    assert speed.step > 0
    assert speed.row > 0
    heads = transformers.AutoModelForImageClassification, transformers.AutoModelForSequenceClassification
    network = heads[modality == "text"].from_pretrained(models / family, num_labels=3)
    assert speed.parameters == network.num_parameters()
    assert [len(split) for split in trained] == [3, 6]  # one step to warm up, then two


def test_adapters_are_timed_and_do_not_count_as_parameters(models: Path) -> None:
    pytest.importorskip("peft")
    model = student(models / "bert", init="scratch", batch_size=2, epochs=1)
    adapted = model.model_copy(update={"lora": Lora(rank=2, alpha=2)})
    whole, found = (time_model(one, card(), None, steps=1) for one in (model, adapted))
    assert found.parameters == whole.parameters


def test_rows_have_the_lengths_of_the_task(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[Any]
) -> None:
    prepared = prepare(tmp_path, monkeypatch)
    model = student(models / "bert", init="scratch", batch_size=16, epochs=1)
    time_model(model, prepared, Path("data/tasks/films"), steps=4)
    assert {len(row) for row in trained[-1].input_ids} == {3, 9}
    time_model(model, prepared, None, steps=1)
    assert {len(row) for row in trained[-1].input_ids} == {12}


def test_a_regression_is_timed(models: Path) -> None:
    scores = card(classes=0, regression=True, metrics=["pearson"])
    model = student(models / "bert", init="scratch", epochs=1)
    assert time_model(model, scores, None, steps=1).parameters


def test_each_architecture_is_timed_once_a_task(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[Any]
) -> None:
    prepare(tmp_path, monkeypatch)
    bert = {"checkpoint": str(models / "bert")}
    chosen = study(
        models={
            "pretrained": bert,
            "scratch": {**bert, "init": "scratch", "learning_rate": 0.1, "epochs": 7},
            "short": {**bert, "layers": 1},
            "absent": {"checkpoint": "owner/absent", "revision": "main"},
        }
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    plan = plan_study(chosen, Path("data"))
    speeds, notes = calibrate(plan, Path("data"))
    assert len(trained) == 4  # two architectures, each to warm up and then in earnest
    assert set(speeds) == {("student", "films", name) for name in ("pretrained", "scratch", "short")}
    assert speeds["student", "films", "pretrained"] == speeds["student", "films", "scratch"]
    short, whole = (speeds["student", "films", name].parameters for name in ("short", "scratch"))
    assert short is not None
    assert whole is not None
    assert short < whole
    assert len(notes) == 1
    assert notes[0].startswith("not timed: checkpoint 'owner/absent'")


def test_a_task_that_is_not_prepared_is_timed_at_its_longest(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = study(models={"tiny": {"checkpoint": str(models / "gpt2")}})
    speeds, notes = calibrate(plan_study(chosen, Path("data"), {"films": Size(100, 10, 5)}), Path("data"))
    assert (list(speeds), notes) == ([("student", "films", "tiny")], [])
    assert {len(row) for row in trained[-1].input_ids} == {12}


def test_a_task_that_was_prepared_otherwise_is_timed_as_the_study_says(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[Any]
) -> None:
    prepare(tmp_path, monkeypatch)
    longer = {"films": {**task(), "max_length": 16}}
    chosen = study(models={"tiny": {"checkpoint": str(models / "gpt2")}}, tasks=longer)
    calibrate(plan_study(chosen, Path("data")), Path("data"))
    assert {len(row) for row in trained[-1].input_ids} == {16}


def test_made_up_tokens_are_in_the_vocabulary(models: Path) -> None:
    preprocessor = load_preprocessor(find_checkpoint(student(models / "bert", init="scratch")), card())
    rows = timing._made_up(preprocessor, np.full(200, 9), card())
    assert rows.input_ids is not None
    drawn = np.unique(np.concatenate(rows.input_ids))
    assert (drawn.min(), drawn.max()) == (0, len(preprocessor.tokenizer) - 1)
