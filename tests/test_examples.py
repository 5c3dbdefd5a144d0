"""The examples and the documentation's snippets run as they are, and learn from the cached logits."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from kdcache import LogitCache, TokenCache
from kdcache.hf import soft_labels
from tests.launching import run_in_two_processes

ROOT = Path(__file__).parents[1]
OFFLINE = ["offline_language_model", "trl_sft"]  # of language models: they print losses
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem not in OFFLINE)


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_four_examples() -> None:
    assert EXAMPLES == ["accelerate_loop", "augmented_views", "plain_pytorch", "transformers_trainer"]


def test_an_example_runs_as_a_script(tmp_path: Path) -> None:
    assert_both_learn(run([str(ROOT / "examples" / "plain_pytorch.py"), str(tmp_path / "out")], tmp_path))
    assert list((tmp_path / "out").rglob("manifest.json"))


def assert_both_learn(printed: str) -> None:
    accuracy = {
        who: float(value) for who, value in re.findall(r"^(teacher|student): accuracy (\S+)$", printed, re.M)
    }
    assert accuracy.keys() == {"teacher", "student"}
    assert min(accuracy.values()) > 0.8  # of two classes that one word, or one bar, tells apart


def test_the_notebook_runs_and_its_students_gain_from_the_cache(tmp_path: Path) -> None:
    """Its cells as one program, in their order."""
    cells = json.loads((ROOT / "examples" / "first_cache.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in cells)
    prints = ["print((noisy != truth).float().mean().item())", "print(results.to_json(orient='values'))"]
    printed = run(["-c", "\n\n".join([*code, *prints])], tmp_path)
    assert "has no row with the hash" in printed
    assert float(printed.splitlines()[-2]) == pytest.approx(0.4, abs=0.03)  # the draw's own sd is 0.02
    scores = {
        (alpha, temperature): score for alpha, temperature, score in json.loads(printed.splitlines()[-1])
    }
    assert scores.pop((0, 1)) + 0.03 < min(scores.values())  # plain fine-tuning on 40% wrong labels


@pytest.mark.parametrize("name", OFFLINE)
def test_a_language_model_is_distilled_offline_in_thirty_lines(name: str, tmp_path: Path) -> None:
    if name == "trl_sft":
        pytest.importorskip("trl", reason="the example is for who has TRL; kdcache does not need it")
    script = ROOT / "examples" / f"{name}.py"
    _, _, code = script.read_text().split('"""')
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    copied = (
        tmp_path / "elsewhere" / script.name
    )  # as one takes it out of the clone, with a checkpoint of one's own
    copied.parent.mkdir()
    copied.write_text(script.read_text())
    checkpoint = str(ROOT / "data" / "models" / "gpt2-tiny")
    printed = run([str(copied), str(tmp_path / "cache"), checkpoint], tmp_path)
    losses = [float(value) for value in re.findall(r"'loss': '?([\d.]+)", printed)]
    assert len(losses) > 8
    assert losses[-1] < losses[0] - 1
    assert TokenCache(tmp_path / "cache").verify("full").rows > 20


@pytest.mark.parametrize("name", OFFLINE)
def test_without_a_folder_it_says_how_to_call_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "trl_sft":
        pytest.importorskip("trl", reason="the example is for who has TRL; kdcache does not need it")
    script = str(ROOT / "examples" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit) as ended:  # with a text: Python prints it, and the exit code is 1
        runpy.run_path(script, run_name="__main__")
    assert f"python examples/{name}.py FOLDER_FOR_THE_CACHE [CHECKPOINT]" in str(ended.value.code)


def test_the_loss_for_sft_weighs_the_tokens_of_all_processes() -> None:
    """It needs no TRL. The gradients of two processes, with 6 and 2 tokens, are averaged, and count as those of 8."""
    source = (ROOT / "examples" / "trl_sft.py").read_text()
    (definition,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    given: dict[str, Any] = {"SFTTrainer": object, "kdcache": Mock(), "cache": Mock()}
    exec(compile(ast.Module([definition], []), "trl_sft.py", "exec"), given)

    def loss(
        tokens: int, mean: float, processes: int, of_all: int | None, balance: float | None = None
    ) -> float:
        given["cache"].match.return_value.to.return_value.loss = torch.ones(tokens, dtype=torch.bool)
        given["kdcache"].kd_token_loss.return_value = torch.tensor(mean)
        trainer = given["OfflineTrainer"]()
        trainer.state, trainer.accelerator = Mock(epoch=0), Mock(num_processes=processes)
        trainer.model = Mock(**{"config.router_aux_loss_coef": 0.5})
        outputs = MoeCausalLMOutputWithPast(
            logits=torch.zeros(1), aux_loss=None if balance is None else torch.tensor(balance)
        )
        number = None if of_all is None else torch.tensor(of_all)
        model = Mock(training=True, return_value=outputs)
        return float(trainer.compute_loss(model, {"input_ids": 0}, num_items_in_batch=number))

    together = (6 * 1.0 + 2 * 5.0) / 8
    assert (loss(6, 1.0, 2, 8) + loss(2, 5.0, 2, 8)) / 2 == pytest.approx(together)
    assert loss(6, 1.0, 1, 8) + loss(2, 5.0, 1, 8) == pytest.approx(together)  # two batches of one process
    assert loss(6, 1.0, 2, None) == 1.0
    assert loss(6, 1.0, 1, 8, 4.0) == pytest.approx((1.0 + 0.5 * 4.0) * 6 / 8)  # a mixture of experts


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name])  # pytest's own arguments are not the example's
        spec.loader.exec_module(module)
    return module


def spied(loss: Callable[..., Tensor], seen: list[tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    def spy(logits: Tensor, labels: Tensor, soft_logits: Tensor | None, **options: float) -> Tensor:
        assert soft_logits is not None
        seen.append((labels.cpu(), soft_logits.cpu()))
        return loss(logits, labels, soft_logits, **options)

    return spy


@pytest.mark.parametrize("name", EXAMPLES)
def test_both_models_of_an_example_learn_and_its_loss_gets_the_cached_logits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(name)
    seen: list[tuple[Tensor, Tensor]] = []
    caller = soft_labels if name == "transformers_trainer" else module  # KDTrainer calls the loss by itself
    monkeypatch.setattr(caller, "kd_loss", spied(caller.kd_loss, seen))
    module.main(tmp_path)
    assert_both_learn(capsys.readouterr().out)
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


def snippets(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


def test_the_snippets_of_the_documentation_run_in_order(tmp_path: Path) -> None:
    found = snippets("library.md")
    assert len(found) >= 8
    (tmp_path / "snippets.py").write_text("\n".join([*found, CHECKS]), encoding="utf-8")
    printed = run(["snippets.py"], tmp_path)
    assert "these logits are of another data and weights" in printed


def test_the_snippets_about_loops_run_in_order(tmp_path: Path) -> None:
    check = """
with torch.no_grad():
    expected = teacher(encode([row["text"] for row in rows]))
np.testing.assert_allclose(np.stack(frame["teacher_logits"]), expected, rtol=1e-5, atol=1e-6)
"""
    program = "\n".join(["import numpy as np", *snippets("your-own-loop.md"), check])
    (tmp_path / "snippets.py").write_text(program, encoding="utf-8")
    assert "cannot join logits to a dict" in run(["snippets.py"], tmp_path)


SAME = """
import copy
students = [copy.deepcopy(student), copy.deepcopy(student)]
for taught, one in zip((taught_by_the_teacher, taught_by_the_cache), students):
    torch.manual_seed(5)
    taught(one)
for first, second, before in zip(*(one.parameters() for one in [*students, student])):
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
    assert (first - before).abs().max() > 0.01
print("the same student")
"""


def test_a_loop_with_the_cache_is_no_longer_than_with_the_teacher_and_trains_the_same(tmp_path: Path) -> None:
    found = snippets("your-own-loop.md")
    with_teacher, with_cache = (
        next(text for text in found if text.startswith(f"def taught_by_the_{who}("))
        for who in ("teacher", "cache")
    )
    assert len(with_cache.splitlines()) == len(with_teacher.splitlines()) - 3
    before = found[: found.index(with_teacher)]
    seeded = "import torch\n\ntorch.manual_seed(0)"  # some random students hardly move
    code = "\n".join([seeded, *before, with_teacher, with_cache, SAME])
    (tmp_path / "both.py").write_text(code, encoding="utf-8")
    assert run(["both.py"], tmp_path).endswith("the same student\n")
