"""The loss at every token is the loss of classification over the vocabulary, at each token to predict.

The student has one output more than there are tokens. It takes part in the softmax.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcache.errors import CacheError, TrialError
from kdcache.logits import Fingerprints
from kdcache.logits.tokens import Full, Threshold, TopK, write_token_logits
from kdcache.modelling.tokens.packing import Packed, pack
from kdcache.study import Regularizer
from kdcache.training.regularizers import make_loss, value_at
from kdcache.training.tokens.losses import make_token_loss
from kdcache.training.tokens.targets import cached_targets, hard_targets

V = 12
PRINTS = Fingerprints(data="documents", weights="w", preprocessing="p", code="c")


@pytest.fixture(scope="module")
def packed() -> Packed:
    rng = np.random.default_rng(0)
    return pack([rng.integers(1, V, size) for size in (5, 9, 2)], 0, 6)


def teacher(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
    """A distribution that depends on the last token alone."""
    table = torch.randn(V, V, generator=torch.Generator().manual_seed(1))
    return 2 * table[input_ids]


def logits_of(packed: Packed) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(len(packed), 6, V + 1, generator=generator)  # one output more than there are tokens


def flat(logits: torch.Tensor, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits and labels of the tokens to predict, as rows of a classification."""
    rows = zip(packed.sequences.tokens.rows(), packed.sequences.loss.rows(), strict=True)
    labels, at = [], []
    for number, (tokens, loss) in enumerate(rows):
        for position in np.flatnonzero(loss):
            labels.append(int(tokens[position]))
            at.append((number, position - 1))
    chosen = torch.stack([logits[number, position, :V] for number, position in at])
    return chosen, torch.tensor(labels)


def beyond(logits: torch.Tensor, packed: Packed, method: Regularizer, progress: float) -> float:
    """What a loss over all outputs has more than one over the V tokens: -log of the probability of all V tokens.

    The CE has it once, KL as often as it counts. Reverse KL is over the V tokens alone.
    """

    def missing(temperature: float) -> float:
        share = (logits / temperature).softmax(2)[..., :V].sum(2)
        chosen, _ = flat(-share.log()[..., None], packed)
        return float(chosen.mean())

    if method.is_base or method.soft_labels == "uniform":
        return missing(1.0)
    alpha, tau = value_at(method.alpha, progress), value_at(method.temperature, progress)
    soft = 0.0 if method.divergence == "reverse_kl" else tau**2 * missing(tau)
    return (1 - alpha) * missing(1.0) + alpha * soft


@pytest.mark.parametrize(
    ("params", "constant"),
    [
        ({}, 0.0),
        # cross-entropy against the uniform labels, where classification has KL
        ({"soft_labels": "uniform", "alpha": 0.1}, 0.1 * math.log(V)),
        ({"soft_labels": "designed", "correct": 0.9, "alpha": 0.5, "temperature": 4}, 0.0),
    ],
)
def test_without_a_teacher(packed: Packed, params: dict[str, Any], constant: float) -> None:
    method, logits = Regularizer(**params), logits_of(packed)
    batch = hard_targets(packed, V)(np.arange(len(packed)), 0)
    expected = make_loss(method, V)(*flat(logits, packed), None, 0.0)
    assert float(make_token_loss(method)(logits, batch, 0.0)) == pytest.approx(
        float(expected) + constant + beyond(logits, packed, method, 0.0), rel=1e-5
    )


@pytest.mark.parametrize(
    "params",
    [
        {"soft_labels": "teacher", "alpha": 0.7},
        {"soft_labels": "teacher", "alpha": 0.7, "temperature": 2},
        {"soft_labels": "self", "alpha": {"start": 0.2, "end": 0.8}},
        {"soft_labels": "teacher", "alpha": 0.5, "divergence": "reverse_kl"},
    ],
)
def test_with_a_full_cache(tmp_path: Path, packed: Packed, params: dict[str, Any]) -> None:
    write_token_logits(teacher, packed.rows, tmp_path / "cache", Full(), fingerprints=PRINTS, vocabulary=V)
    method, logits = Regularizer.model_validate(params), logits_of(packed)
    batch = cached_targets(tmp_path / "cache", packed, V, "documents")(np.arange(len(packed)), 0)
    given = teacher(torch.tensor(np.stack(packed.sequences.tokens.rows())))
    soft, _ = flat(torch.cat([given, given[..., :1]], 2), packed)
    expected = make_loss(method, V)(*flat(logits, packed), soft, 0.25)
    # the cache rounds log-probabilities to 11 bits
    assert float(make_token_loss(method)(logits, batch, 0.25)) == pytest.approx(
        float(expected) + beyond(logits, packed, method, 0.25), rel=5e-3
    )


def test_an_epoch_has_a_draw_of_its_own(tmp_path: Path, packed: Packed) -> None:
    how = Threshold(0.25, draws=2)
    write_token_logits(teacher, packed.rows, tmp_path / "cache", how, fingerprints=PRINTS, vocabulary=V)
    targets, rows = cached_targets(tmp_path / "cache", packed, V, "documents"), np.arange(len(packed))
    first, second, third = (targets(rows, epoch) for epoch in range(3))
    assert torch.equal(first.token, third.token)
    assert not torch.equal(first.token, second.token)


def test_tail_says_what_becomes_of_the_missing_probability(tmp_path: Path, packed: Packed) -> None:
    write_token_logits(teacher, packed.rows, tmp_path / "cache", TopK(2), fingerprints=PRINTS, vocabulary=V)
    batch = cached_targets(tmp_path / "cache", packed, V, "documents")(np.arange(len(packed)), 0)
    bucket, renormalised = (
        make_token_loss(Regularizer(soft_labels="teacher", alpha=1.0, tail=tail))
        for tail in ("bucket", "renormalise")
    )
    logits = logits_of(packed)
    with pytest.warns(UserWarning, match="over-confident"):
        other = renormalised(logits, batch, 0.0)
    assert float(bucket(logits, batch, 0.0)) != pytest.approx(float(other))


def test_a_cache_of_other_sequences_is_refused(tmp_path: Path, packed: Packed) -> None:
    write_token_logits(teacher, packed.rows, tmp_path / "cache", Full(), fingerprints=PRINTS, vocabulary=V)
    other = pack([np.array([1, 2, 3])], 0, 6)
    with pytest.raises(CacheError, match="need the same tokenizer and max_length"):
        cached_targets(tmp_path / "cache", other, V, "documents")
    with pytest.raises(CacheError, match="need the same tokenizer"):
        cached_targets(tmp_path / "cache", packed, V + 1, "documents")
    with pytest.raises(CacheError, match="expected others, found documents"):
        cached_targets(tmp_path / "cache", packed, V, "others")


@pytest.mark.parametrize(
    "params",
    [
        {"soft_labels": "teacher", "alpha": 0.5, "divergence": "mse"},
        {"soft_labels": "uniform_others", "alpha": 0.1},
        {"function": "mine:loss"},
    ],
)
def test_what_is_not_defined_at_every_token_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(TrialError, match="not defined at every token"):
        make_token_loss(Regularizer.model_validate(params))
