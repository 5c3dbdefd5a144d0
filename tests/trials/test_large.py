"""Teachers and students with LoRA, batches in parts, checkpointed gradients and class weights, from start to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.logits import LogitCache
from kdcache.study import Regularizer, Student, Teacher
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.result import finished_result
from kdcache.trials.run import run_trial
from tests import tiny_models as tiny
from tests.doing import cache_logits, prepare_words, teach, training_identity, trial_plan

RECIPE: dict[str, Any] = {"learning_rate": 0.003, "epochs": 2, "batch_size": 8, "precision": "float32"}
LARGE: dict[str, Any] = {
    "lora": {"rank": 2, "alpha": 4, "targets": ["query", "value"]},
    "accumulate": 2,
    "gradient_checkpointing": True,
    "class_weights": "balanced",
}
# What somebody does who has never heard of kdcache, nor of peft.
PLAIN = """
import json, sys
sys.modules["peft"] = None
import transformers
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
model = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
texts = json.loads(sys.argv[2])
print(json.dumps([model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in texts]))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    prepare_words(root)
    tiny.save_checkpoint(root / "bert", "bert")
    return root


def plainly(folder: Path, task: Path) -> np.ndarray:
    texts = PreparedTask(task).rows("validation", ["text"])["text"].to_pylist()[:5]
    command = [sys.executable, "-c", PLAIN, str(folder), json.dumps(texts)]
    return np.array(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def test_a_large_teacher_and_its_large_student_are_plain_checkpoints(root: Path) -> None:
    pytest.importorskip("peft")
    task = root / "task"
    teacher = Teacher(checkpoint=str(root / "bert"), **RECIPE, **LARGE)
    result = teach("big", task, teacher, root / "teacher", "taught")
    assert result["params"]["lora"]["rank"] == 2
    assert set(result["versions"]) == {"torch", "transformers", "accelerate", "numpy", "peft"}
    cache_logits("big", task, teacher, root / "teacher", root / "cache")
    model = Student(checkpoint=str(root / "bert"), teacher="big", keep="all", **RECIPE, **LARGE)
    kd = Regularizer(soft_labels="teacher", alpha=0.5, temperature=2)
    trial = root / "trial"
    run_trial(
        trial_plan(
            folder=trial, identity="tried", task_folder=task, model=model, method=kd,
            soft_labels=(root / "cache",), keep_model=True,
        )
    )  # fmt: skip
    kept = finished_result(trial).params["student"]
    assert {key: kept[key] for key in LARGE} == {**LARGE, "lora": {**LARGE["lora"], "dropout": 0.0}}
    for folder, logits in ((root / "teacher", root / "cache"), (trial / "model", trial / "logits")):
        expected = LogitCache(logits).logits("validation", np.arange(5))
        np.testing.assert_allclose(plainly(folder, task), expected, atol=1e-5)


def test_each_key_gives_another_identity_and_none_the_one_from_before(root: Path) -> None:
    card = PreparedTask(root / "task").card
    plain = Student(checkpoint=str(root / "bert"), **RECIPE)
    base = training_identity(card, plain, Regularizer(), 0)
    as_default = Student(checkpoint=str(root / "bert"), accumulate=1, class_weights=None, **RECIPE)
    assert training_identity(card, as_default, Regularizer(), 0) == base
    changed = [Student(checkpoint=str(root / "bert"), **RECIPE, **{key: LARGE[key]}) for key in LARGE]
    assert len({base, *(training_identity(card, model, Regularizer(), 0) for model in changed)}) == 5


def test_balanced_weights_are_those_of_the_train_rows(root: Path) -> None:
    """20 rows of each class: balanced is a weight of 1; other weights train another model."""
    losses = []
    for weights in (None, "balanced", [1, 1], [1, 3]):
        model = Student(checkpoint=str(root / "bert"), class_weights=weights, **RECIPE)
        plan = trial_plan(folder=root / "weighed", identity="w", task_folder=root / "task", model=model)
        run_trial(plan)
        losses.append(finished_result(plan.folder).losses)
    assert losses[1] == losses[2]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[3] != pytest.approx(losses[0], rel=1e-2)
