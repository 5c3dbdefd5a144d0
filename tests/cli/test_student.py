"""`kdcache student`, from params.yaml to a folder that a pipeline loads."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kdcache.cli import main
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.scores import trial_scores
from stages import prepare, train
from tests.tiny_models import TEXTS, save_checkpoint

STUDY = """
seeds: [3, 4]
tasks:
  films:
    source: {files: {train: rows.jsonl, validation: rows.jsonl}}
    text: [text]
    metrics: [accuracy]
    max_length: 8
teachers: {}
students:
  small: {checkpoint: bert, learning_rate: 0.01, epochs: 1, batch_size: 2, precision: float32, keep: [4]}
regularizers: {base: {}}
distillers: {}
comparison: {baseline: base, margin: {accuracy: 1.0}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose trials are there, the model of seed 4 among them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDCACHE_WORKERS", "1")  # in this process: no worker has to start
    rows = [{"text": text, "label": "ab"[row % 2]} for row, text in enumerate(TEXTS)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("params.yaml").write_text(STUDY)
    save_checkpoint(Path("bert"), "bert")
    prepare.main(["--task", "films"])
    train.main(["--task", "films", "--student", "small", "--regularizer", "base"])
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["student", *arguments])
    assert (ended.value.code or 0) == code
    output = capsys.readouterr()
    return output.out if code == 0 else output.err


def test_a_student_is_handed_out_or_the_reason_is_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = here / "data/trials/films/small/base"
    assert [(trials / f"seed-{seed}" / "model").exists() for seed in (3, 4)] == [False, True]
    of: dict[int, Any] = {
        seed: trial_scores(trials / f"seed-{seed}", PreparedTask(Path("data/tasks/films"))) for seed in (3, 4)
    }
    out = said(capsys, "films", "small", "base", "--out", "first")
    assert out.startswith(f"first: small by base, seed 3, on films: accuracy {of[3]['accuracy']:.6g}, ")
    assert "trained again; its logits are the trial's, bit for bit" in out
    answer = json.loads(said(capsys, "films", "small", "base", "--seed", "4", "--out", "second", "--json"))
    assert (answer["seed"], answer["trained_again"], answer["scores"]) == (4, False, of[4])
    for folder in ("first", "second"):
        classify = transformers.pipeline("text-classification", folder, truncation=True)
        assert classify("the dog sat")[0]["label"] in ("a", "b")
    assert "is there already and not an empty folder" in said(
        capsys, "films", "small", "base", "--out", "first", code=1
    )
    assert "no student 'smal' in the study; there are: small" in said(
        capsys, "films", "smal", "base", "--out", "third", code=1
    )
    assert not Path("third").exists()


def test_a_student_as_onnx_is_used_as_the_page_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="kdcache[onnx] is not installed")
    pytest.importorskip("onnxscript", reason="kdcache[onnx] is not installed")
    asked = ("films", "small", "base", "--seed", "4", "--onnx", "--out", "headlines")
    assert ", as ONNX too: its logits are torch's" in said(capsys, *asked)
    page = (Path(__file__).parents[2] / "docs" / "students.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(import onnxruntime\n.*?)^```$", page, re.M | re.S)
    found: dict[str, Any] = {}
    exec(snippet, found)
    model = transformers.AutoModelForSequenceClassification.from_pretrained("headlines").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("headlines")
    assert "token_type_ids" in tokenizer("a")
    with torch.no_grad():
        expected = [
            model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0].tolist()
            for text in found["texts"]
        ]
    assert found["logits"] == pytest.approx(np.array(expected), abs=1e-4)


def test_onnx_says_what_it_needs_before_anything_is_trained(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("kdcache.trials.student.trained_again", lambda *_: pytest.fail("trained"))
    error = said(capsys, "films", "small", "base", "--onnx", "--out", "first", code=1)
    assert error == "kdcache: this needs onnxruntime: pip install 'kdcache[onnx]'\n"
    assert not Path("first").exists()


def test_nothing_is_handed_out_if_the_onnx_model_is_another(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdcache.trials import onnx

    monkeypatch.setattr(onnx, "check_exporter", lambda *_: None)
    monkeypatch.setattr(onnx, "_export", lambda *_: None)
    monkeypatch.setattr(onnx, "_in_onnx", lambda _: lambda inputs: np.zeros((len(inputs["input_ids"]), 2)))
    before = sorted(here.iterdir())
    error = said(capsys, "films", "small", "base", "--seed", "4", "--onnx", "--out", "first", code=1)
    assert "the ONNX model is another: validation, row id " in error
    assert sorted(here.iterdir()) == before
