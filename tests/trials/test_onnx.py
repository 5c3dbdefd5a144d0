"""A student as ONNX gives torch's logits in any batch and of any length; one that does not is not handed out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.errors import TrialError
from kdcache.hashing.fingerprint import of_files
from kdcache.modelling.building import build_model
from kdcache.modelling.inputs import Inputs
from kdcache.study import Task
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials import onnx as exporting
from kdcache.trials.onnx import add_onnx, check_exporter
from kdcache.trials.saving import save_checkpoint
from tests import tiny_models

TASKS: dict[str, dict[str, Any]] = {
    "gpt2": {"text": ["text"], "metrics": ["pearson"], "max_length": 30},
    "vit": {"image": "image", "metrics": ["accuracy"]},
}
ONE_LAYER = {"gpt2": {"n_layer": 1}, "vit": {"num_hidden_layers": 1}}  # the exporter takes seconds for each


def saved(root: Path, family: str) -> tuple[Path, Path]:
    """A model as a student is saved, of weights as large as trained ones, and its prepared task of 6 rows."""
    images = np.random.default_rng(0).integers(256, size=(6, 8, 8))
    rows = [
        {"text": text, "label": row / 2 if family == "gpt2" else "ab"[row % 2], "image": image.tolist()}
        for row, (text, image) in enumerate(zip(tiny_models.TEXTS, images, strict=True))
    ]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {split: str(root / "rows.jsonl") for split in ("train", "validation")}
    prepare_task(Task.model_validate({"source": {"files": files}, **TASKS[family]}), root / "task", "task")
    start = Checkpoint(tiny_models.save_checkpoint(root / "start", family, **ONE_LAYER[family]))
    inputs = Inputs(PreparedTask(root / "task"), start)
    model = build_model(start, inputs.card, 0, inputs.preprocessor)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) * 0.3)
    (root / "model").mkdir()
    save_checkpoint(model, inputs, root / "model")
    (root / "model" / "student.json").write_text('{"identity": "x"}')
    return root / "model", root / "task"


def exported(root: Path, family: str) -> Any:
    """The session of a model's file, which is there alone, and what is recorded of it."""
    runtime = pytest.importorskip("onnxruntime", reason="kdcache[onnx] is not installed")
    pytest.importorskip("onnxscript", reason="kdcache[onnx] is not installed")
    folder, task = saved(root, family)
    before = {path.name for path in folder.iterdir()}
    add_onnx(folder, task)
    assert {path.name for path in folder.iterdir()} == before | {"model.onnx"}
    others = sorted((before | {"model.onnx"}) - {"student.json"})
    record = json.loads((folder / "student.json").read_text())
    assert record == {"identity": "x", "files": of_files(folder, others)}
    return runtime.InferenceSession(folder / "model.onnx")


def shapes(session: Any) -> dict[str, list[int | str]]:
    return {one.name: one.shape for one in (*session.get_inputs(), *session.get_outputs())}


def test_a_regression_of_texts_longer_and_shorter_than_those_of_validation(tmp_path: Path) -> None:
    """GPT-2 reads the score from the last token that is not padding."""
    session = exported(tmp_path, "gpt2")
    assert shapes(session) == {
        "input_ids": ["batch", "length"],
        "attention_mask": ["batch", "length"],
        "logits": ["batch", 1],
    }
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    texts = ["a", "the red bird", " ".join(["noon"] * 9)]
    with torch.no_grad():
        expected = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in texts]
    assert np.ptp(expected) > 0.1
    for some in (slice(None), slice(1)):
        batch = dict(tokenizer(texts[some], padding=True, return_tensors="np"))
        assert session.run(["logits"], batch)[0] == pytest.approx(np.array(expected[some]), abs=1e-4)


def test_images_in_batches_of_any_size(tmp_path: Path) -> None:
    session = exported(tmp_path, "vit")
    assert shapes(session) == {"pixel_values": ["batch", 1, 8, 8], "logits": ["batch", 2]}
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    images = [Image.new("L", (8, 8), level) for level in (0, 90, 255)]
    pixels = np.stack([(np.asarray(image, np.float32)[None] / 255 - 0.5) / 0.5 for image in images])
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels)).logits.numpy()
    assert np.ptp(expected) > 0.1
    assert session.run(["logits"], {"pixel_values": pixels})[0] == pytest.approx(expected, abs=1e-4)
    assert session.run(["logits"], {"pixel_values": pixels[:1]})[0] == pytest.approx(expected[:1], abs=1e-4)


def nearly(off: float) -> Callable[[Path], Any]:
    """In place of onnxruntime: the model in torch, off at the row of 15 tokens, the longest."""

    def runtime(path: Path) -> Any:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(path.parent).eval()

        def run(inputs: dict[str, Tensor]) -> Any:
            with torch.no_grad():
                logits = model(**inputs).logits.numpy()
            longest = inputs["attention_mask"].sum(1, keepdim=True).numpy() == 15
            return np.where(longest, logits + off, logits)

        return run

    return runtime


@pytest.mark.parametrize("off", [2e-4, float("nan")])
def test_a_logit_that_is_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    folder, task = saved(tmp_path, "gpt2")
    monkeypatch.setattr(exporting, "_export", lambda *_: None)
    monkeypatch.setattr(exporting, "_in_onnx", nearly(off))
    with pytest.raises(
        TrialError, match=r"the ONNX model is another: validation, row id 3, logit \[0\] is .* in torch"
    ):
        add_onnx(folder, task)
    monkeypatch.setattr(exporting, "_in_onnx", nearly(5e-5))
    add_onnx(folder, task)


def test_what_the_exporter_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: Any, **__: Any) -> None:
        raise RuntimeError("step 1 of 3\nmore") from ValueError("no such operator\nand more")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(TrialError, match=r"^a gpt2 model cannot be exported to ONNX: no such operator$"):
        add_onnx(*saved(tmp_path, "gpt2"))


def test_a_language_model_is_refused() -> None:
    with pytest.raises(TrialError, match="a language model's student is not exported to ONNX"):
        check_exporter(language_model=True)
