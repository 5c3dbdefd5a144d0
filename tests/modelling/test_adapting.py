"""LoRA and gradient checkpointing: what is trained, what comes out, and that it is a plain model again."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import ModelError
from kdcache.modelling.adapting import merged, to_be_trained
from kdcache.modelling.building import build_model
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import Lora, Regularizer, Student
from kdcache.training.loop import fine_tune
from kdcache.training.regularizers import make_loss
from tests import tiny_models as tiny
from tests.tiny_models import card, random_split, same_weights, student

LORA = Lora(rank=2, alpha=6, targets=("query", "value"))
LENGTHS = [3, 9, 4, 12, 5, 3, 7, 10, 6, 8]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checkpoint(tmp_path_factory.mktemp("bert"), "bert", **tiny.STILL["bert"])


def build(params: Student, modality: Any = "text") -> Any:
    checkpoint, task = find_checkpoint(params), card(modality=modality)
    return build_model(checkpoint, task, 0, load_preprocessor(checkpoint, task))


def trained(params: Student, seed: int = 0) -> Any:
    with to_be_trained(build(params), params, seed) as network:
        network, _ = fine_tune(network, random_split(LENGTHS), make_loss(Regularizer(), 3), params, seed)
    return merged(network)


def test_lora_trains_low_rank_changes_of_its_targets_and_the_head(bert: Path) -> None:
    pytest.importorskip("peft")
    params = student(bert, lora=LORA)
    before, after = build(params).state_dict(), trained(params).state_dict()
    assert list(after) == list(before)  # a plain model, with the names that it had
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    targets = {name for name in before if name.endswith((".query.weight", ".value.weight"))}
    assert len(targets) == 6  # of three layers
    assert changed == targets | {"classifier.weight", "classifier.bias"}
    for name in targets:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) == LORA.rank


def test_an_adapter_starts_without_effect_and_counts_alpha_over_rank_times(bert: Path) -> None:
    pytest.importorskip("peft")
    params = student(bert, lora=LORA)
    inputs = {"input_ids": torch.arange(5, 13).view(2, 4), "attention_mask": torch.ones(2, 4).long()}
    plain = build(params).eval()
    with to_be_trained(build(params), params, 0) as network, torch.no_grad():
        network.eval()
        torch.testing.assert_close(network(**inputs).logits, plain(**inputs).logits)
        layer = network.base_model.model.bert.encoder.layer[1].attention.self.query
        layer.lora_B["default"].weight.fill_(0.5)
        expected = layer.base_layer.weight + 6 / 2 * 0.5 * layer.lora_A["default"].weight.sum(0)
        adapted = network(**inputs).logits
        assert not torch.allclose(adapted, plain(**inputs).logits)
        whole = merged(network)
        torch.testing.assert_close(
            whole.bert.encoder.layer[1].attention.self.query.weight, expected.expand(16, 16)
        )
        torch.testing.assert_close(whole(**inputs).logits, adapted, atol=1e-5, rtol=1e-5)


def test_adapters_are_drawn_from_the_seed(bert: Path) -> None:
    pytest.importorskip("peft")
    params = student(bert, lora=Lora(rank=2, alpha=2, dropout=0.2, targets=("query",)))
    first, again, other = trained(params), trained(params), trained(params, seed=1)
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_layers_that_a_model_does_not_have(bert: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    params = student(bert, lora=Lora(rank=2, alpha=2, targets=("c_attn",)))
    with pytest.raises(ModelError, match=r"lora: .*c_attn.*\(this model is a bert\)"):
        trained(params)
    resnet = student(tiny.save_checkpoint(tmp_path, "resnet"), lora=Lora(rank=2, alpha=2))
    with (
        pytest.raises(ModelError, match=r"lora: .*\(this model is a resnet\)"),
        to_be_trained(build(resnet, "image"), resnet, 0),
    ):
        pass


def test_peft_is_asked_for_where_it_is_needed(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return inner(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=r"pip install 'kdcache\[lora\]'"):
        trained(student(bert, lora=LORA))


def test_checkpointed_gradients_are_the_same(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the activations of each layer computed a second time on the way back."""
    plain = trained(student(bert))
    calls = []
    params = student(bert, gradient_checkpointing=True)
    network = build(params)
    layer = network.bert.encoder.layer[0].attention.self.query
    layer.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with to_be_trained(network, params, 0) as trainee:
        found, run = fine_tune(trainee, random_split(LENGTHS), make_loss(Regularizer(), 3), params, 0)
    assert len(calls) == 2 * run.steps
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in found.modules())


def test_a_model_that_has_no_checkpointing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = student(tiny.save_checkpoint(tmp_path, "resnet"), gradient_checkpointing=True)
    network = build(params, "image")
    monkeypatch.setattr(type(network), "supports_gradient_checkpointing", False)
    with (
        pytest.raises(ModelError, match=r"gradient_checkpointing: .*'resnet'"),
        to_be_trained(network, params, 0),
    ):
        pass
