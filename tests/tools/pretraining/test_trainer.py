"""The schedule by hand, and a loop that learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tools.pretraining.samples import make_trainer, recipe, weights
from tools.pretraining.errors import PretrainingError
from tools.pretraining.loop import learning_rate
from tools.pretraining.trainer import decay_start


def test_schedule_by_hand():
    def rate(step: int) -> float:
        return learning_rate(step, peak=1.0, warmup=4, decay_start=10, steps=20)

    found = [rate(step) for step in (0, 1, 3, 4, 9, 10, 15, 19)]
    assert found == pytest.approx([0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.1])


def test_decay_starts_at_the_last_fifth_or_where_the_run_resumes():
    hundred = recipe("bert", steps=100, decay_fraction=0.2)
    assert decay_start(hundred, resumed_at=0) == 80
    assert decay_start(hundred, resumed_at=50) == 80
    assert decay_start(hundred, resumed_at=90) == 90


def test_training_learns(tokenizers):
    trainer = make_trainer("bert", tokenizers, steps=60)
    before = trainer.evaluate()
    assert before == pytest.approx(np.log(300), abs=0.3)
    for _ in range(60):
        trainer.step()
    assert trainer.evaluate() < before - 1


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("bert", [5.7038, 5.75988, 5.55217, 5.56811]),
        ("roberta", [5.73209, 5.65824, 5.67447, 5.64589]),
        ("gpt2", [5.61173, 5.64296, 5.60011, 5.6243]),
    ],
)
def test_first_losses_are_those_of_the_embedded_checkpoints_code(family, expected, tokenizers):
    """Fixed when data/models/ was made: other numbers mean that those checkpoints could not be made again."""
    trainer = make_trainer(family, tokenizers, steps=4)
    assert [trainer.step().item() for _ in range(4)] == pytest.approx(expected, abs=1e-4)


def test_in_bfloat16_the_steps_differ_by_rounding_and_the_weights_and_the_held_out_loss_stay_float32(
    tokenizers,
):
    exact, rounded = (
        make_trainer("gpt2", tokenizers, steps=4, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    assert rounded.evaluate() == exact.evaluate()
    losses = [[trainer.step().item() for _ in range(4)] for trainer in (exact, rounded)]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)
    assert losses[1] != losses[0]
    assert {weight.dtype for weight in weights(rounded).values()} == {torch.float32}


@pytest.mark.parametrize("until", [3, None])
def test_a_run_that_diverged_leaves_the_state_before_it(until, tokenizers, tmp_path):
    """Also at a stop on the way, where a checkpoint would be kept, and long before the next log line."""
    trainer, state = make_trainer("bert", tokenizers, steps=4), tmp_path / "state.safetensors"
    trainer.run(state, "identity", until=1)
    before = state.read_bytes()
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    with pytest.raises(
        PretrainingError, match=f"the loss became nan at step {until or 4}: lower learning_rate"
    ):
        trainer.run(state, "identity", until=until)
    assert state.read_bytes() == before
