"""Estimators: unbiased, sums of exactly one, variance as theory says, and the same entries in any batch."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from kdcache.errors import CacheError
from kdcache.logits.tokens import RS, Full, Threshold, TopK
from kdcache.logits.tokens.estimators import estimator_of
from kdcache.logits.tokens.sampling import Drawn, draw

DRAWS = 2000
ROUNDING = 2e-6  # of float32, in a log-probability


def distributions(count: int, vocabulary: int, spread: float, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(count, vocabulary, generator=random)).log_softmax(1)


def dense(drawn: Drawn, vocabulary: int, draws: int = 1) -> np.ndarray:
    """The obvious way: targets [n, draws, V], entry by entry; the tail shares what the head leaves."""
    targets = np.zeros((len(drawn.heads), draws, vocabulary))
    head = tail = 0
    for position, (heads, tails) in enumerate(zip(drawn.heads, drawn.tails, strict=True)):
        ids, values = drawn.head_ids[head : head + heads], drawn.head_logprobs[head : head + heads]
        head += heads
        kept = np.exp(values.astype(np.float64))
        for one in range(draws):
            targets[position, one, ids] = kept
            for token in drawn.tail_ids[tail : tail + tails]:
                targets[position, one, token] += (1 - kept.sum()) / tails
            tail += tails
    assert head == len(drawn.head_ids)
    assert tail == len(drawn.tail_ids)
    return targets


def many(estimator, logprobs: torch.Tensor, count: int = DRAWS) -> np.ndarray:
    """[count, V]: targets of one distribution at many rows, drawn at once."""
    drawn = draw(estimator, logprobs.expand(count, -1), np.arange(count), np.full(count, 3))
    return dense(drawn, logprobs.shape[1])[:, 0]


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("estimator", [Threshold(1 / 20), Threshold(0.5), RS(16)], ids=str)
def test_unbiased(estimator, spread):
    logprobs = distributions(1, 300, spread)
    truth = logprobs.double().exp().numpy()[0]
    targets = many(estimator, logprobs)
    error = np.sqrt(targets.var(axis=0, ddof=1) / DRAWS)
    weight = np.where(targets > 0, targets, np.inf).min(axis=0).clip(max=1)  # of a draw
    # A token too rare to have been drawn, or drawn always, shows no spread: then that by theory.
    theory = np.sqrt(truth * np.maximum(weight - truth, 0) / DRAWS)
    assert (np.abs(targets.mean(axis=0) - truth) <= 4 * np.maximum(error, theory) + 1e-6).all()


@pytest.mark.parametrize(
    "estimator", [Threshold(1 / 20, draws=3), Threshold(1 / 50), RS(16, draws=2)], ids=str
)
def test_every_draw_sums_to_one(estimator):
    logprobs = torch.cat([distributions(40, 300, spread) for spread in (0.0, 1.0, 4.0, 20.0)])
    drawn = draw(estimator, logprobs, np.arange(160), np.arange(160))
    sums = dense(drawn, 300, estimator.draws).sum(axis=2)
    np.testing.assert_allclose(sums[drawn.tails > 0], 1, atol=1e-12)
    np.testing.assert_allclose(sums, 1, atol=1e-6)  # no tail: what the head leaves is a rounding error


def test_what_the_threshold_keeps():
    """Every token of eps or more, exactly; of the tail no token twice, floor(T / eps) of them."""
    eps, logprobs = 1 / 40, distributions(50, 500, 2.5)
    drawn = draw(Threshold(eps), logprobs, np.arange(50), np.zeros(50, int))
    probabilities = logprobs.exp().numpy()
    assert drawn.head_ids.tolist() == np.nonzero(probabilities >= eps)[1].tolist()
    np.testing.assert_allclose(drawn.head_logprobs, logprobs.numpy()[probabilities >= eps], atol=ROUNDING)
    tail = np.where(probabilities < eps, probabilities, 0).sum(axis=1, dtype=np.float64)
    assert drawn.tails.tolist() == np.maximum(np.floor(tail / eps), 1).astype(int).tolist()
    ends = np.cumsum(drawn.tails)
    for start, end, row in zip(ends - drawn.tails, ends, probabilities, strict=True):
        ids = drawn.tail_ids[start:end]
        assert (np.diff(ids) > 0).all()
        assert (row[ids] < eps).all()


def test_less_variance_than_sampling_with_replacement_at_equal_entries():
    logprobs = distributions(1, 2000, 3.5)
    threshold = draw(Threshold(1 / 50), logprobs.expand(200, -1), np.arange(200), np.zeros(200, int))
    entries = (len(threshold.head_ids) + len(threshold.tail_ids)) / 200
    truth = logprobs.double().exp().numpy()[0]

    def variance(estimator) -> tuple[float, float]:
        """Of the target, in squared distance, and the different tokens of a draw."""
        targets = many(estimator, logprobs, 600)
        return float(((targets - truth) ** 2).sum(axis=1).mean()), float((targets > 0).sum(axis=1).mean())

    number = next(n for n in range(10, 1000) if variance_free_entries(truth, n) >= entries)
    (ours, ours_entries), (theirs, theirs_entries) = variance(Threshold(1 / 50)), variance(RS(number))
    assert theirs_entries == pytest.approx(ours_entries, rel=0.05)
    assert ours < theirs / 2


def variance_free_entries(truth: np.ndarray, number: int) -> float:
    """How many different tokens `number` draws with replacement have, on average."""
    return float((1 - (1 - truth) ** number).sum())


def test_theory_gives_the_variance():
    """RS: sum p (1 - p) / n. Threshold: at most T w, where w = T / m."""
    logprobs = distributions(1, 400, 2.0)
    truth = logprobs.double().exp().numpy()[0]
    rs = ((many(RS(25), logprobs) - truth) ** 2).sum(axis=1).mean()
    assert rs == pytest.approx((truth * (1 - truth)).sum() / 25, rel=0.05)
    tail = truth[truth < 1 / 30]
    weight = tail.sum() / np.floor(tail.sum() * 30)
    threshold = ((many(Threshold(1 / 30), logprobs) - truth) ** 2).sum(axis=1).mean()
    assert threshold == pytest.approx((tail * (weight - tail)).sum(), rel=0.05)


def test_draws_together_are_a_finer_sample():
    logprobs = distributions(1, 400, 2.0).expand(300, -1)
    truth = logprobs[0].double().exp().numpy()
    four = dense(draw(Threshold(1 / 16, draws=4), logprobs, np.arange(300), np.zeros(300, int)), 400, 4)
    one = ((four[:, 0] - truth) ** 2).sum(axis=1).mean()
    mean = ((four.mean(axis=1) - truth) ** 2).sum(axis=1).mean()
    assert mean < one / 4.5  # independent draws would give a fourth


@pytest.mark.parametrize("vocabulary", [300, 1024, 7])
@pytest.mark.parametrize(
    "estimator", [Threshold(1 / 30, draws=2, seed=5), RS(20, draws=2), TopK(5), Full()], ids=str
)
def test_the_same_in_any_batch(estimator, vocabulary):
    logprobs, rows = distributions(60, vocabulary, 3.0), np.repeat(np.arange(6), 10)
    positions = np.tile(np.arange(10), 6)
    whole = draw(estimator, logprobs, rows, positions)
    random = np.random.default_rng(1)
    cuts = [0, *sorted(random.choice(np.arange(1, 60), 7, replace=False)), 60]
    parts = [draw(estimator, logprobs[a:b], rows[a:b], positions[a:b]) for a, b in pairwise(cuts)]
    for name in Drawn.__dataclass_fields__:
        together = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(together, getattr(whole, name), err_msg=name)


def test_arrays_and_tensors_give_the_same():
    logprobs = distributions(10, 200, 2.0)
    ids = [
        draw(Threshold(1 / 9), values, np.arange(10), np.arange(10)).tail_ids
        for values in (logprobs, logprobs.numpy())
    ]
    np.testing.assert_array_equal(*ids)


def test_top_k_and_full():
    logprobs = distributions(20, 90, 2.0)
    top = draw(TopK(8), logprobs, np.arange(20), np.arange(20))
    expected = np.sort(np.argsort(-logprobs.numpy(), axis=1)[:, :8], axis=1)
    np.testing.assert_array_equal(top.head_ids.reshape(20, 8), expected)
    np.testing.assert_allclose(
        top.head_logprobs.reshape(20, 8), np.take_along_axis(logprobs.numpy(), expected, 1), atol=ROUNDING
    )
    full = draw(Full(), logprobs, np.arange(20), np.arange(20))
    np.testing.assert_allclose(full.head_logprobs.reshape(20, 90), logprobs.numpy(), atol=ROUNDING)
    assert draw(TopK(200), logprobs, np.arange(20), np.arange(20)).heads.tolist() == [90] * 20


def test_tokens_that_cannot_be():
    """A vocabulary cut with -inf: such tokens are never stored."""
    logits = torch.full((3, 100), -torch.inf)
    logits[:, :10] = 0.0
    for estimator in (Threshold(1 / 50), Threshold(1 / 4), RS(30)):
        drawn = draw(estimator, logits.log_softmax(1), np.arange(3), np.arange(3))
        assert drawn.tail_ids.size == 0 or drawn.tail_ids.max() < 10
        assert drawn.head_ids.size == 0 or drawn.head_ids.max() < 10


@pytest.mark.parametrize("estimator", [Threshold(1 / 50, draws=4, seed=9), RS(7), TopK(3), Full()], ids=str)
def test_facts_and_back(estimator):
    assert estimator_of(estimator.facts()) == estimator


@pytest.mark.parametrize("estimator", [Threshold(1 / 50, draws=4, seed=9), RS(7)], ids=str)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_earlier_sampler_is_read(estimator, version):
    """Its caches have the same meaning; other draws, so the manifest's facts differ."""
    earlier = {**estimator.facts(), "sampler": estimator.sampler.replace("v3", version)}
    assert earlier != estimator.facts()
    assert estimator_of(earlier) == estimator
    with pytest.raises(CacheError, match="expected an estimator"):
        estimator_of({**earlier, "sampler": estimator.sampler.replace("v3", "v4")})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Threshold(0.7), "eps must be a number from 1/65536 to 1/2, found 0.7"),
        (lambda: Threshold(0.1, draws=0), "draws must be an integer from 1 to 4096, found 0"),
        (lambda: TopK(0), "k must be an integer"),
        (lambda: RS(2.5), "n must be an integer"),
        (lambda: estimator_of({"kind": "best"}), "expected an estimator of threshold, rs, topk, full"),
        (lambda: estimator_of({"kind": "topk", "eps": 1}), "a topk estimator has no such values"),
        (lambda: estimator_of({"kind": "rs", "n": 3, "sampler": "other"}), "expected an estimator"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(CacheError, match=message):
        make()
