"""KL to the teacher and acceptance rate of a kept student, against dense distributions computed here."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kdcache.checkpoints.find import find_checkpoint
from kdcache.cli import main
from kdcache.errors import CacheError
from kdcache.logits import Fingerprints
from kdcache.logits.tokens import write_token_logits
from kdcache.modelling.tokens.inputs import DocumentInputs
from kdcache.study import Study, load_study
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.layout import MODEL, Layout
from kdcache.trials.tokens.distance import Distance, distance_to_teacher
from tests.language import RECIPE, run_project, write_project

CACHES: dict[str, dict[str, Any]] = {
    "full": {"estimator": "full"},
    "threshold": {"estimator": "threshold", "eps": 0.1, "draws": 200},
    "rs": {"estimator": "rs", "n": 20, "draws": 100},
    "topk": {"estimator": "topk", "k": 5},
    "warm": {"estimator": "threshold", "eps": 0.1, "temperature": 2.0},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One teacher, stored in five ways; a student whose first seed is kept."""
    root = tmp_path_factory.mktemp("language")
    model = {"checkpoint": str(root / "gpt2"), **RECIPE}
    study = write_project(
        root,
        teachers={name: {**model, "epochs": 0, "cache": cache} for name, cache in CACHES.items()},
        students={"tiny": {**model, "teacher": "threshold", "keep": [0]}},
        regularizers={"base": {}},
        distillers={},
    )
    run_project(root, study)
    return root


def study_of(root: Path) -> Study:
    return load_study(root / "params.yaml")


def inputs_of(root: Path) -> tuple[DocumentInputs, Any]:
    kept = Layout(root).trial("docs", "tiny", "base", 0) / MODEL
    model = study_of(root).students["tiny"].model_copy(update={"checkpoint": str(kept)})
    network = transformers.AutoModelForCausalLM.from_pretrained(kept, use_cache=False).eval()
    return DocumentInputs(PreparedTask(Layout(root).task("docs")), find_checkpoint(model)), network


def distance(root: Path, teacher: str) -> Distance:
    inputs, network = inputs_of(root)
    return distance_to_teacher(network, inputs, Layout(root).cache("docs", teacher), "validation", 3)


def dense(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each predicted token KL and acceptance, and its document: one sequence after the other."""
    inputs, student = inputs_of(root)
    teacher = transformers.AutoModelForCausalLM.from_pretrained(root / "gpt2", use_cache=False).eval()
    packed, kl, acceptance = inputs.packed("validation"), [], []
    for row in packed.rows:
        starts = np.append(row["document_starts"], len(row["input_ids"]))
        places = np.concatenate([np.arange(end - start) for start, end in itertools.pairwise(starts)])
        given = {
            "input_ids": torch.tensor(row["input_ids"])[None],
            "position_ids": torch.tensor(places)[None],
        }
        with torch.no_grad():
            p, q = (
                model(**given).logits[0, :-1, : inputs.vocabulary].double().softmax(1)
                for model in (teacher, student)
            )
        at = row["loss_mask"][1:]
        kl.append((p * (p.log() - q.log())).sum(1).numpy()[at])
        acceptance.append(torch.minimum(p, q).sum(1).numpy()[at])
    return np.concatenate(kl), np.concatenate(acceptance), packed.document


def test_a_full_cache_gives_both(finished: Path) -> None:
    kl, acceptance, document = dense(finished)
    found = distance(finished, "full")
    assert found.kl is not None
    assert found.acceptance is not None
    assert (found.tokens, found.reasons) == (len(kl), {})
    assert found.kl.value == pytest.approx(kl.mean(), rel=2e-3)  # the cache's probabilities have 11 bits
    assert found.acceptance.value == pytest.approx(acceptance.mean(), rel=2e-3)
    # the error of a ratio of sums over documents
    names = np.unique(document)
    sums = np.array([kl[document == name].sum() for name in names])
    counts = np.array([(document == name).sum() for name in names])
    residuals = sums - kl.mean() * counts
    error = np.sqrt(len(names) * residuals.var(ddof=1)) / counts.sum()
    assert found.kl.error == pytest.approx(error, rel=1e-2)


@pytest.mark.parametrize("name", ["threshold", "rs"])
def test_a_sampled_cache_gives_kl_without_bias(finished: Path, name: str) -> None:
    kl, _, _ = dense(finished)
    found = distance(finished, name)
    assert found.kl is not None
    assert found.kl.value == pytest.approx(kl.mean(), rel=0.05, abs=0.01)  # of 100 draws or more
    assert found.acceptance is None
    assert "the teacher's probability of every token" in found.reasons["acceptance"]


@pytest.mark.parametrize(
    ("name", "reason"), [("topk", "lacks all but 5 tokens"), ("warm", "the cache is of temperature 2")]
)
def test_what_a_cache_cannot_give_is_said(finished: Path, name: str, reason: str) -> None:
    found = distance(finished, name)
    assert (found.kl, found.acceptance) == (None, None)
    assert reason in found.reasons["kl"]


def test_a_cache_of_other_data_is_refused(finished: Path, tmp_path: Path) -> None:
    inputs, network = inputs_of(finished)
    rows = inputs.packed("validation").rows
    for data, sequences, message in (
        ("other", rows, "its distributions are of other data"),
        (inputs.card.fingerprint, rows[1:], "its sequences of 'validation' are not the student's"),
    ):
        prints = Fingerprints(data=data, weights="w", preprocessing="p", code="c")
        folder = tmp_path / f"{len(sequences)}"
        write_token_logits(network, {"validation": sequences}, folder, fingerprints=prints)
        with pytest.raises(CacheError, match=message):
            distance_to_teacher(network, inputs, folder, "validation", 3)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["distance", *arguments])
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_command(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    kept, other = json.loads(said(capsys, "--json"))["trials"]
    assert kept["kl"]["value"] == pytest.approx(dense(finished)[0].mean(), rel=0.05, abs=0.01)
    assert (kept["teacher"], kept["acceptance"]) == ("threshold", None)
    assert "was not kept; write `keep`" in other["reasons"]["trial"]
    out = said(capsys, "--teacher", "full")
    assert "tiny" in out
    assert "±" in out
