"""`kdcache student`, from params.yaml to a folder that a pipeline loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
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
