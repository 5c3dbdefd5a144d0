"""Distributions against PyTorch's log_softmax in float64."""

import numpy as np
import pytest
import torch

from kdcache.logits.tokens.distributions import Distributions, array


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


def test_at_least():
    given = Distributions(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log())
    rows, tokens = given.at_least(0.24)
    assert (rows.tolist(), tokens.tolist()) == ([0, 0, 0, 1], [0, 1, 2, 2])
