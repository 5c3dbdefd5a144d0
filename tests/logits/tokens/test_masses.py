"""Tokens by cumulated probability, against the sum over all of a vocabulary in the blocks' order."""

from itertools import accumulate

import numpy as np
import pytest
import torch

from kdcache.logits.tokens.masses import ONE, SIZE, Masses, _block_sums


def probabilities(n: int, vocabulary: int, spread: float = 2.0) -> torch.Tensor:
    return (spread * torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(0))).softmax(1)


def in_blocks(vocabulary: int) -> list[int]:
    """All tokens, block after block."""
    blocks = -(-vocabulary // SIZE)
    return [token for block in range(blocks) for token in range(block, vocabulary, blocks)]


@pytest.mark.parametrize("vocabulary", [1, 7, 16, 17, 300, 1024])
def test_every_point_finds_its_token(vocabulary):
    given = probabilities(5, vocabulary)
    masses = Masses(given.clone())
    np.testing.assert_allclose(masses.totals / ONE, 1, atol=1e-6)
    order = in_blocks(vocabulary)
    for row in range(5):
        ends = list(accumulate(float(given[row, token]) for token in order))
        middles = [(start + end) / 2 for start, end in zip([0, *ends], ends, strict=False)]
        found = masses.tokens_at(np.full(vocabulary, row), np.array(middles) * ONE)
        assert found.tolist() == order


def test_a_token_without_probability_is_never_found():
    given = torch.zeros(1, 100)
    given[0, [3, 50, 99]] = torch.tensor([0.5, 1e-20, 0.5])
    points = np.linspace(0, 1.1 * ONE, 999)  # beyond the end too
    found = Masses(given).tokens_at(np.zeros(999, int), points)
    assert set(found.tolist()) == {3, 99}


def test_block_sums_are_added_up_in_order():
    """What another device does step by step is bit for bit what NumPy does at once."""
    values = probabilities(40, 64 * SIZE, 5.0).view(40, SIZE, 64)
    steps = values[:, 0].clone()
    for k in range(1, SIZE):
        steps += values[:, k]
    assert torch.equal(_block_sums(values), steps)
