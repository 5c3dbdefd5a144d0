"""Order of the sequences, short pieces, masks and causal labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tools.pretraining.samples import recipe
from tools.pretraining import PretrainingRecipe
from tools.pretraining.masking import batch_at, hold_out, mask_tokens, sample_next_tokens


def test_masks_are_15_percent_and_80_10_10():
    wide = PretrainingRecipe(
        family="bert", layers=1, hidden=8, heads=1, vocab_size=8192, tokens=1, learning_rate=1e-3
    )
    rng, special = np.random.default_rng(0), np.arange(5)
    batch = rng.integers(5, 8192, (2000, 128))
    batch[:, [0, 40, 127]] = 2, 3, 3
    asked = mask_tokens(batch, wide, special, 4, np.random.default_rng(1))
    positions, labels = asked.positions.numpy(), asked.labels.numpy()
    shown = np.take_along_axis(asked.inputs.numpy(), positions, axis=1)

    assert positions.shape == (2000, 19)  # round(0.15 * 128) = 19
    assert all(len(set(row)) == 19 for row in positions)
    assert not np.isin(positions, [0, 40, 127]).any()
    assert (np.take_along_axis(batch, positions, axis=1) == labels).all()
    # 38,000 draws: four standard errors are 0.8 and 0.6 points
    assert np.mean(shown == 4) == pytest.approx(0.8, abs=0.009)
    assert np.mean(shown == labels) == pytest.approx(0.1, abs=0.007)
    random_tokens = shown[(shown != 4) & (shown != labels)]
    assert random_tokens.min() >= 5
    assert random_tokens.max() < 8192
    untouched = np.ones_like(batch, dtype=bool)
    np.put_along_axis(untouched, positions, False, axis=1)
    assert (asked.inputs.numpy() == batch)[untouched].all()
    assert (np.bincount(positions.ravel(), minlength=128)[[1, 20, 60, 126]] > 200).all()


def test_causal_labels_are_the_next_tokens():
    asked = sample_next_tokens(
        np.arange(32).reshape(2, 16), recipe("gpt2", predict_fraction=0.25), np.random.default_rng(0)
    )
    rows = torch.arange(2)[:, None] * 16
    assert asked.positions.shape == (2, 4)
    assert (asked.labels == rows + asked.positions + 1).all()


def test_epochs_visit_everything_once_in_a_new_order():
    rows, full = np.arange(22, dtype=np.uint16)[:, None], recipe("bert", short_tokens=0)
    epochs = [
        np.concatenate([batch_at(rows, full, step)[:, 0] for step in range(5 * e, 5 * e + 5)])
        for e in range(2)
    ]  # 22 rows, batches of 4: five an epoch
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()


def test_first_tokens_come_in_short_pieces_of_the_same_sequences():
    rows = np.arange(20 * 16, dtype=np.uint16).reshape(20, 16)
    short, full = recipe("bert"), recipe("bert", short_tokens=0)
    assert [batch_at(rows, short, step).shape for step in range(4)] == [(8, 8), (8, 8), (4, 16), (4, 16)]
    for step in range(4):
        assert (batch_at(rows, short, step).ravel() == batch_at(rows, full, step).ravel()).all()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_last_tokens_come_as_short_texts_of_their_own(family):
    rows = np.arange(20 * 16, dtype=np.uint16).reshape(20, 16)
    rows[:, 0], rows[:, -1] = 1000, 2000
    changes = {"short_tokens": 0, "last_short_tokens": 128}
    last, full = recipe(family, **changes), recipe(family, short_tokens=0)  # six steps of 64 tokens
    for step in range(6):
        found, expected = batch_at(rows, last, step), batch_at(rows, full, step)
        if step >= 4:
            expected = expected.reshape(8, 8)
            if family == "bert":
                expected[:, 0], expected[:, -1] = 1000, 2000
        np.testing.assert_array_equal(found, expected)


def test_held_out_sequences_are_not_trained_on():
    rows = np.arange(500, dtype=np.uint16)[:, None]
    training, held = hold_out(rows, 0.01, seed=3)
    assert len(held) == 5
    assert len(training) == 495
    assert not set(training[:, 0]) & set(held[:, 0])
