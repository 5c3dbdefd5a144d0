"""The examples and the documentation's snippets run as they are, and learn from the cached logits."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache import LogitCache, TokenCache
from tests.launching import run_in_two_processes

ROOT = Path(__file__).parents[1]
OFFLINE = "offline_language_model"  # a script of its own kind
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != OFFLINE)


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_four_examples() -> None:
    assert EXAMPLES == ["accelerate_loop", "augmented_views", "plain_pytorch", "transformers_trainer"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    printed = run([str(ROOT / "examples" / f"{name}.py"), str(tmp_path / "out")], tmp_path)
    accuracy = {
        who: float(value) for who, value in re.findall(r"^(teacher|student): accuracy (\S+)$", printed, re.M)
    }
    assert accuracy.keys() == {"teacher", "student"}
    assert min(accuracy.values()) > 0.8  # of two classes that one word, or one bar, tells apart


def test_a_language_model_is_distilled_offline_in_thirty_lines(tmp_path: Path) -> None:
    script = ROOT / "examples" / f"{OFFLINE}.py"
    assert len(script.read_text().splitlines()) <= 30
    printed = run([str(script), str(tmp_path / "cache")], tmp_path)
    losses = [float(value) for value in re.findall(r"'loss': '?([\d.]+)", printed)]
    assert len(losses) > 8
    assert losses[-1] < losses[0] - 1
    assert TokenCache(tmp_path / "cache").verify("full").rows > 20


def test_two_processes_write_one_cache_and_train_one_student(tmp_path: Path) -> None:
    printed = run_in_two_processes(ROOT / "examples" / "accelerate_loop.py", tmp_path / "two")
    assert float(re.findall(r"^student: accuracy (\S+)$", printed, re.M)[0]) > 0.8
    ids = LogitCache(tmp_path / "two").split("train").ids
    assert ids.tolist() == list(range(40))  # no row twice, as padding for equal shares


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spied(loss: Callable[..., Tensor], seen: list[tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    def spy(logits: Tensor, labels: Tensor, soft_logits: Tensor | None) -> Tensor:
        assert soft_logits is not None
        seen.append((labels.cpu(), soft_logits.cpu()))
        return loss(logits, labels, soft_logits)

    return spy


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_examples_loss_gets_the_cached_logits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(name)
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(module, "kd_loss", spied(module.kd_loss, seen))
    module.main(tmp_path)
    (manifest,) = tmp_path.rglob("manifest.json")
    rows = len(module.ROWS)
    cache = LogitCache(manifest.parent)
    cached = cache.logits("train", np.arange(rows), view=None if cache.views is None else 0)
    labels = np.array([row["label"] for row in module.ROWS])
    first_epoch = [torch.cat(parts)[:rows].numpy() for parts in zip(*seen, strict=True)]
    assert len(first_epoch[0]) == rows

    def together(labels: Any, logits: Any) -> Any:  # labels beside logits, in an order of their own
        table = np.column_stack([labels, logits])
        return table[np.lexsort(table.T)]

    np.testing.assert_array_equal(together(*first_epoch), together(labels, cached))


def test_the_trainers_loss_is_a_mean_over_any_accumulation(tmp_path: Path) -> None:
    """Two batches of 8 accumulated give the gradient of one batch of 16."""
    module = load("transformers_trainer")
    rows = module.Dataset.from_list(module.ROWS[:16]).add_column("teacher_logits", [[1.0, -1.0]] * 16)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = module.AutoConfig.from_pretrained(module.CHECKPOINT, num_labels=2, **still)
    gradients = []
    for size in (16, 8):
        torch.manual_seed(0)
        model = module.AutoModelForSequenceClassification.from_config(config)
        trainer = module.trainer_of(module.KDTrainer, model, rows, tmp_path)
        trainer.current_gradient_accumulation_steps = 16 // size
        for start in range(0, 16, size):
            part = [trainer.train_dataset[row] for row in range(start, start + size)]
            trainer.training_step(model, trainer.data_collator(part), torch.tensor(16))
        gradients.append(model.classifier.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


CHECKS = """
with torch.no_grad():
    expected, second = teacher(encode(rows)), colleague(encode(rows))
for path in ("cache", "by-hand"):
    found = kdcache.LogitCache(path).logits("train", np.arange(100), row_hashes)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
of_text = {row["text"]: logits for row, logits in zip(rows, expected.tolist())}
assert len(joined) == 67
mine = [of_text[text] for text in joined["text"]]
np.testing.assert_allclose(joined["teacher_logits"][:], mine, rtol=1e-5, atol=1e-6)
mean = (2 * expected.softmax(1) + second.softmax(1)) / 3
np.testing.assert_allclose(torch.tensor(both.logits("train", np.arange(100))).softmax(1), mean, rtol=1e-4)
assert ids.tolist() == [5, 4]
assert views.logits("train", [5, 7]).shape == (2, 4, 3)
np.testing.assert_array_equal(row["teacher_logits"], views.logits("train", [5], view=3)[0])
with torch.no_grad():
    seen = vision_teacher(row["image"][None])[0]
np.testing.assert_allclose(row["teacher_logits"], seen, rtol=1e-5, atol=1e-5)
"""


def test_the_snippets_of_the_documentation_run_in_order(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(snippets) >= 8
    (tmp_path / "snippets.py").write_text("\n".join([*snippets, CHECKS]), encoding="utf-8")
    printed = run(["snippets.py"], tmp_path)
    assert "these logits are of another data and weights" in printed


def test_the_trainer_evaluates_rows_without_logits(tmp_path: Path) -> None:
    module = load("transformers_trainer")
    rows = module.Dataset.from_list(module.ROWS[:8])
    config = module.AutoConfig.from_pretrained(module.CHECKPOINT, num_labels=2)
    student = module.AutoModelForSequenceClassification.from_config(config)
    trainer = module.trainer_of(module.KDTrainer, student, rows, tmp_path)
    scores = trainer.evaluate()
    assert 0 <= scores["eval_accuracy"] <= 1
    assert scores["eval_loss"] == pytest.approx(np.log(2), abs=0.5)  # cross-entropy of a new head
    assert trainer.predict(trainer.eval_dataset).predictions.shape == (8, 2)
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        trainer.train()
