"""Language models in little memory: adapters, batches in parts, activations computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import ModelError
from kdcache.modelling.tokens.building import build_causal_model
from kdcache.modelling.tokens.inputs import DocumentInputs
from kdcache.modelling.tokens.likelihoods import token_likelihoods
from kdcache.modelling.tokens.packing import Packed
from kdcache.study import Lora, Regularizer, Student
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.training.loop import Training
from kdcache.training.tokens.learning import learn_tokens
from kdcache.training.tokens.loop import fine_tune_tokens
from kdcache.training.tokens.losses import make_token_loss
from kdcache.training.tokens.targets import hard_targets
from kdcache.trials.identity import logit_fingerprints
from kdcache.trials.tokens.caching import write_distributions
from tests.language import write_project
from tests.logits.tokens.families import causal_model
from tests.tiny_models import tokenizer

FULL = {"estimator": "full"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("language")
    study = write_project(root)
    prepare_task(study.tasks["docs"], root / "task", "docs")
    return root


def model(root: Path, **changes: Any) -> Student:
    recipe = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8, "precision": "float32"}
    return Student.model_validate({"checkpoint": str(root / "gpt2"), **recipe, **changes})


def inputs_of(root: Path, params: Student) -> DocumentInputs:
    return DocumentInputs(PreparedTask(root / "task"), find_checkpoint(params))


def learned(root: Path, method: dict[str, Any], *caches: Path, **changes: Any) -> tuple[Any, Training]:
    params = model(root, **changes)
    return learn_tokens(inputs_of(root, params), params, Regularizer(**method), 3, caches)


@pytest.fixture(scope="module")
def teacher(project: Path) -> Path:
    """The cache of the checkpoint as it is."""
    params, folder = model(project, cache=FULL), project / "logits"
    inputs = inputs_of(project, params)
    network = transformers.AutoModelForCausalLM.from_pretrained(project / "gpt2", use_cache=False)
    prints = logit_fingerprints(inputs.card, inputs.checkpoint, weights="gpt2")
    write_distributions(network, inputs, ["train"], params, folder, prints, "teacher")
    return folder


def nll(root: Path, network: Any) -> float:
    inputs = inputs_of(root, model(root))
    return float(token_likelihoods(network, inputs.packed("train"), 8).nll.mean())


KD = {"soft_labels": "teacher", "alpha": 0.5}
SAME = [({"accumulate": 4}, 2e-2), ({"gradient_checkpointing": True}, 1e-5)]


@pytest.mark.parametrize("method", [{}, KD], ids=["base", "kd"])
@pytest.mark.parametrize(("how", "most"), SAME, ids=["accumulate", "gradient_checkpointing"])
def test_less_memory_is_the_same_training(
    project: Path, teacher: Path, method: dict[str, Any], how: dict[str, Any], most: float
) -> None:
    """Parts of a batch count by their sequences: only that of the last sequence, which predicts fewer, is not alike."""
    caches = [teacher] if method else []
    plain, run = learned(project, method, *caches)
    other, other_run = learned(project, method, *caches, **how)
    assert other_run.steps == run.steps
    assert other_run.losses == pytest.approx(run.losses, rel=most)
    assert other_run.losses[-1] < other_run.losses[0]
    assert nll(project, other) == pytest.approx(nll(project, plain), rel=most)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in other.modules())


def test_parts_of_whole_sequences_add_up(project: Path) -> None:
    """Without the last sequence, and without dropout, whose numbers depend on the parts, the training is the same."""
    inputs = inputs_of(project, model(project))
    packed = inputs.packed("train")
    part = packed.sequences.part(np.arange(len(packed) - 1))
    whole = Packed(part, packed.document[: int(part.loss.values.sum())], packed.documents)
    losses = []
    for parts in (1, 4):
        params = model(project, accumulate=parts)
        network = build_causal_model(inputs.checkpoint, inputs.card, 3)
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        targets, loss = hard_targets(whole, inputs.vocabulary), make_token_loss(Regularizer())
        losses.append(fine_tune_tokens(network, whole, targets, loss, params, 3)[1].losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("method", [{}, KD], ids=["base", "kd"])
def test_adapters_are_trained_and_nothing_else(project: Path, teacher: Path, method: dict[str, Any]) -> None:
    caches = [teacher] if method else []
    lora = Lora(rank=2, alpha=4).model_dump()
    trained, run = learned(project, method, *caches, lora=lora, epochs=4)
    start = transformers.AutoModelForCausalLM.from_pretrained(project / "gpt2")
    before, after = start.state_dict(), trained.state_dict()
    assert before.keys() == after.keys()  # merged: a checkpoint like any other
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"transformer.h.0.attn.c_attn.weight"}
    difference = after["transformer.h.0.attn.c_attn.weight"] - before["transformer.h.0.attn.c_attn.weight"]
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2
    assert run.losses[-1] < run.losses[0]
    again, _ = learned(project, method, *caches, lora=lora, epochs=4)
    assert all(torch.equal(after[name], value) for name, value in again.state_dict().items())


@pytest.mark.parametrize("start", ["pretrained", "scratch"])
def test_a_model_that_mixes_documents_is_refused_before_training(
    project: Path, tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teacher or student: both learn here."""
    causal_model("opt", vocab_size=300).save_pretrained(tmp_path / "opt")
    tokenizer("gpt2").save_pretrained(tmp_path / "opt")
    monkeypatch.setattr("kdcache.training.tokens.learning.fine_tune_tokens", None)
    with pytest.raises(ModelError, match=r"/opt: a opt model does not keep .* model of another family"):
        learned(project, {}, checkpoint=str(tmp_path / "opt"), init=start)


def test_adapters_of_layers_that_are_not_there(project: Path) -> None:
    with pytest.raises(ModelError, match=r"lora: Target modules .*this model is a gpt2"):
        learned(project, {}, lora={"rank": 2, "alpha": 4, "targets": ["query"]})
