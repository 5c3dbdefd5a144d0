"""Distributions against PyTorch's log_softmax in float64."""

import numpy as np
import pytest
import torch

from kdcache.logits.tokens.arrays import array
from kdcache.logits.tokens.distributions import SIZE, Distributions


@pytest.mark.parametrize("shift", [0.0, -40.0, 300.0])
def test_entropies_and_logprobs(shift):
    logits = 4 * torch.randn(30, 500, generator=torch.Generator().manual_seed(1)) + shift
    truth = logits.double().log_softmax(1)
    given = Distributions(logits)
    rows, tokens = torch.arange(30), torch.arange(30) * 16
    tolerance = 1e-5 + 1e-6 * abs(shift)  # float32 has 24 bits of a logit
    np.testing.assert_allclose(array(given.entropies()), -(truth.exp() * truth).sum(1), atol=tolerance)
    np.testing.assert_allclose(array(given.logprobs_at(rows, tokens)), truth[rows, tokens], atol=tolerance)


def test_tokens_that_cannot_be():
    """p log p is 0 where p is."""
    logits = torch.full((2, 50), -torch.inf)
    logits[:, :4] = 0.0
    np.testing.assert_allclose(array(Distributions(logits).entropies()), np.log(4), rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_distribution_have_no_entropy(bad):
    logits = torch.zeros(3, 50)
    logits[1, 7] = bad
    assert Distributions(logits).entropies().isfinite().tolist() == [True, False, True]


def test_weights_are_the_probabilities():
    logits = 4 * torch.randn(9, 50, generator=torch.Generator().manual_seed(1))
    given = Distributions(logits)
    assert given.blocks == 4
    weights = given.weights_of(torch.arange(9 * 4)).view(9, 64)
    np.testing.assert_allclose(weights[:, :50] / given.totals[:, None], logits.double().softmax(1), rtol=3e-6)
    assert (weights[:, 50:] == 0).all()
    np.testing.assert_allclose(given.sums, weights.view(9, 4, SIZE).sum(2), rtol=1e-6)
    np.testing.assert_allclose(given.logprobs(), logits.double().log_softmax(1), atol=2e-6)


def test_split_off():
    given = Distributions(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log())
    rows, tokens = given.split_off(0.24)
    assert (rows.tolist(), tokens.tolist()) == ([0, 0, 0, 1], [0, 1, 2, 2])
    np.testing.assert_allclose(given.sums[:, 0] / given.totals, [0, 0.2], rtol=1e-6)
    rest = given.weights_of(torch.tensor([1]))[0, :3]
    np.testing.assert_allclose(rest / given.totals[1], [0.1, 0.1, 0], rtol=1e-6)
    assert [len(part) for part in given.split_off(0.24)] == [0, 0]


@pytest.mark.parametrize("vocabulary", [5, 700, 20000])
def test_passes_over_a_few_positions_at_a_time_change_nothing(monkeypatch, vocabulary):
    logits = 3 * torch.randn(30, vocabulary, generator=torch.Generator().manual_seed(3))
    whole = Distributions(logits)
    monkeypatch.setattr("kdcache.logits.tokens.distributions.PASS", 7 * vocabulary)
    parts = Distributions(logits)
    assert torch.equal(whole.sums, parts.sums)
    assert torch.equal(whole.totals, parts.totals)
    assert torch.equal(whole.entropies(), parts.entropies())


def test_all_heavy_tokens_are_split_off():
    """Also where a block has several of them, or many light ones that are heavy together."""
    logits = 3 * torch.randn(50, 700, generator=torch.Generator().manual_seed(2))
    probabilities = logits.double().softmax(1).numpy()
    for eps in (0.4, 0.05, 0.003):
        rows, tokens = Distributions(logits).split_off(eps)
        expected = np.nonzero(probabilities >= eps)
        assert (rows.tolist(), tokens.tolist()) == tuple(part.tolist() for part in expected)
