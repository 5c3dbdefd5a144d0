"""Tokens by cumulated probability, against the sum over all of a vocabulary."""

from itertools import accumulate

import numpy as np
import pytest
import torch

from kdcache.logits.tokens import arrays
from kdcache.logits.tokens.distributions import Distributions
from kdcache.logits.tokens.masses import ONE, Masses


def logits(n: int, vocabulary: int, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("vocabulary", [1, 7, 16, 17, 300, 1024])
def test_every_point_finds_its_token(vocabulary):
    given = logits(5, vocabulary)
    of = Distributions(given)
    masses = Masses(of)
    np.testing.assert_allclose(masses.totals / ONE, 1, atol=1e-6)
    weights = of.weights_of(torch.arange(5 * of.blocks)).view(5, -1)[:, :vocabulary].double()
    probabilities = weights / weights.sum(1, keepdim=True)
    for row in range(5):
        ends = list(accumulate(probabilities[row].tolist()))
        middles = [(start + end) / 2 for start, end in zip([0, *ends], ends, strict=False)]
        found = masses.tokens_at(np.full(vocabulary, row), np.array(middles) * masses.totals[row])
        assert found.tolist() == list(range(vocabulary))


def test_what_was_split_off_is_never_found():
    """Nor a token that had no probability before; points run beyond the end too."""
    given = torch.full((2, 100), -torch.inf)
    given[1, [3, 50, 60, 99]] = torch.tensor([0.25, 1e-20, 0.5, 0.25]).log()
    given[0, 5] = 0.0
    of = Distributions(given)
    assert [part.tolist() for part in of.split_off(0.4)] == [[0, 1], [5, 60]]
    masses = Masses(of)
    np.testing.assert_allclose(masses.totals / ONE, [0, 0.5], atol=1e-6)
    points = np.linspace(0, 0.6 * ONE, 999)
    assert set(masses.tokens_at(np.ones(999, int), points).tolist()) == {3, 99}


def test_another_device_gives_the_same(monkeypatch):
    """What PyTorch does there is what NumPy does here, up to the order in which a block is added up."""

    def found() -> tuple[list[list[int]], np.ndarray, np.ndarray]:
        of = Distributions(logits(40, 1000, 4.0))
        heads = [part.tolist() for part in of.split_off(1 / 30)]
        masses = Masses(of)
        rows = np.repeat(np.arange(40), 200)
        points = np.tile(np.linspace(0, 1, 200), 40) * masses.totals[rows]
        return (
            heads,
            of.entropies().numpy(),
            masses.tokens_at(rows, points),
        )

    here = found()
    for module in ("arrays", "distributions"):
        monkeypatch.setattr(f"kdcache.logits.tokens.{module}.by_numpy", lambda values: False)
    assert not arrays.by_numpy(torch.zeros(1))
    there = found()
    assert here[0] == there[0]
    np.testing.assert_allclose(here[1], there[1], rtol=1e-5)
    assert (here[2] == there[2]).mean() > 0.999
