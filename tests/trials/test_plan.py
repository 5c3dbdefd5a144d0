"""Plans: a stage that starts from a checkpoint refuses what `kdcache check` refuses, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import ModelError
from kdcache.study import Student, Study
from kdcache.tasks.prepare import prepare_task
from kdcache.trials.layout import Layout
from kdcache.trials.missing import teacher_to_train, trials_to_run
from kdcache.trials.plan import Planner, plain_trial
from tests.tasks.test_images import png
from tests.tiny_models import TEXTS, save_checkpoint

RECIPE = {"learning_rate": 0.001, "epochs": 1, "batch_size": 2}
REFUSED = {
    "shapes": r"vit/preprocessor_config\.json: image_mean: expected a list of numbers",
    "films": "bert: lora: expected weights of the pooler",
}


def study(root: Path, **changes: Any) -> Study:
    """A task of pictures for a ViT without image settings, one of texts for a BERT without a pooler, with LoRA.

    Args:
        changes: of the models, in place of LoRA.
    """
    lora = {"lora": {"rank": 2, "alpha": 2}}
    models = {
        "shapes": {**RECIPE, "checkpoint": str(root / "vit"), "tasks": ["shapes"], **changes},
        "films": {**RECIPE, "checkpoint": str(root / "bert"), "tasks": ["films"], **(changes or lora)},
    }
    rows = str(root / "rows.csv")
    content = {
        "seeds": [0],
        "tasks": {
            "shapes": {"source": {"folder": str(root / "shapes")}, "image": "image", "metrics": ["accuracy"]},
            "films": {"source": {"files": {"train": rows, "validation": rows}}, "text": ["text"],
                      "metrics": ["accuracy"], "max_length": 8},
        },
        "teachers": models,
        "students": models,
        "regularizers": {"base": {}},
        "distillers": {},
        "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
    }  # fmt: skip
    return Study.model_validate(content)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plans")
    for split in ("train", "validation"):
        for label in ("x", "y"):
            (root / "shapes" / split / label).mkdir(parents=True)
            (root / "shapes" / split / label / "1.png").write_bytes(png([[1]]))
    lines = [f"{text},{'xy'[row % 2]}" for row, text in enumerate(TEXTS)]
    (root / "rows.csv").write_text("\n".join(["text,label", *lines]))
    (save_checkpoint(root / "vit", "vit") / "preprocessor_config.json").unlink()
    save_checkpoint(root / "bert", "bert", kind="ForMaskedLM")
    for name, task in study(root).tasks.items():
        prepare_task(task, Layout(root).task(name), name)
    return root


@pytest.mark.parametrize("task", ["shapes", "films"])
def test_a_checkpoint_that_would_not_be_used_as_it_was_made(root: Path, task: str) -> None:
    asked, layout = study(root), Layout(root)
    stages: list[Callable[[], Any]] = [
        lambda: teacher_to_train(asked, layout, task, task),
        lambda: trials_to_run(asked, layout, task, task, "base"),
        lambda: plain_trial(root / "plain", layout.task(task), task, asked.students[task], 0),
    ]
    for stage in stages:
        with pytest.raises(ModelError, match=REFUSED[task]):
            stage()


@pytest.mark.parametrize("task", ["shapes", "films"])
def test_the_same_from_scratch(root: Path, task: str) -> None:
    planner = Planner(study(root, init="scratch"), Layout(root))
    assert planner.teacher(task, task).identity
    assert len(planner.trials(task, task, "base")) == 1
    model: Student = planner.study.students[task]
    assert plain_trial(root / "plain", planner.layout.task(task), task, model, 0).task == task
