"""Stopping and going on: equal to not stopping, and refused when it is another run's state."""

from __future__ import annotations

import pytest
import torch

from tests.tools.pretraining.samples import FAMILIES, make_trainer, weights
from tools.pretraining import PretrainingError
from tools.pretraining.state import save_state


@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_run_equals_an_uninterrupted_one(family, tokenizers, tmp_path):
    straight = make_trainer(family, tokenizers)
    losses = [straight.step().item() for _ in range(6)]

    first = make_trainer(family, tokenizers)
    for _ in range(3):
        first.step()
    save_state(tmp_path / "state.safetensors", first.model, first.optimizer, first.progress, "same")
    second = make_trainer(family, tokenizers)
    second.resume(tmp_path / "state.safetensors", "same")
    assert [second.step().item() for _ in range(3)] == losses[3:]
    for name, expected in weights(straight).items():
        assert torch.equal(weights(second)[name], expected), name


def test_new_target_decays_from_where_the_run_is(tokenizers, tmp_path):
    long = make_trainer("bert", tokenizers, steps=100)
    for _ in range(5):
        long.step()
    save_state(tmp_path / "state.safetensors", long.model, long.optimizer, long.progress, "same")
    short = make_trainer("bert", tokenizers, steps=7)
    short.resume(tmp_path / "state.safetensors", "same")
    assert (short.progress.step, short.progress.decay_start, short.progress.steps) == (5, 5, 7)
    rates = []
    for _ in range(2):
        short.step()
        rates.append(short.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2e-3, 1e-3])


def test_state_of_another_run_is_refused(tokenizers, tmp_path):
    trainer = make_trainer("bert", tokenizers)
    trainer.step()
    path = tmp_path / "state.safetensors"
    save_state(path, trainer.model, trainer.optimizer, trainer.progress, "one")
    with pytest.raises(
        PretrainingError, match=r"another run: .*texts other, found one\. Only `tokens` may change"
    ):
        make_trainer("bert", tokenizers).resume(path, "other")


def test_damaged_state_is_refused(tokenizers, tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"not a state")
    with pytest.raises(PretrainingError, match=r"state.safetensors: not a readable state.*delete it"):
        make_trainer("bert", tokenizers).resume(path, "same")
