"""Seeds as one stacked model: the same losses as one by one, gradients clipped seed by seed."""

from __future__ import annotations

import pytest
import torch

from benchmarks import stacked


def test_losses_are_those_of_single_runs() -> None:
    data = stacked.batches(seeds=2, steps=4, rows=4, tokens=6)
    alone = stacked.one_by_one(stacked.models(2), data, torch.float32)
    together = stacked.stacked(stacked.models(2), data, torch.float32)
    assert alone.shape == (2, 4)
    assert not torch.allclose(alone[0], alone[1])  # seeds differ
    assert not torch.allclose(alone[:, 0], alone[:, 3])  # and learn
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=0)


def test_each_seed_is_clipped_by_its_own_norm() -> None:
    """Norms 5 (over both tensors) and 0.5: the first is brought to 1, the second is left."""
    gradients = {"a": torch.tensor([[3.0, 0.0], [0.5, 0.0]]), "b": torch.tensor([[4.0], [0.0]])}
    stacked._clip(gradients)
    torch.testing.assert_close(gradients["a"], torch.tensor([[0.6, 0.0], [0.5, 0.0]]))
    torch.testing.assert_close(gradients["b"], torch.tensor([[0.8], [0.0]]))


def test_it_prints_how_many_times_as_fast(capsys: pytest.CaptureFixture[str]) -> None:
    stacked.main(["--seeds", "2", "--steps", "2", "--tokens", "4", "--batch-size", "2", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "| 2 seeds |" in printed
    assert "| 4 tokens, bfloat16 |" in printed
