"""Losses against the obvious dense version with autograd, and the mean over draws against the full KL."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from kdcache.errors import CacheError
from kdcache.logits.tokens import RS, Full, Threshold, TopK, losses, write_token_logits
from kdcache.logits.tokens.losses import (
    check_kd,
    designed_token_loss,
    kd_token_loss,
    smoothed_token_loss,
    token_log_likelihood,
)

from .conftest import FINGERPRINTS, VOCABULARY, Table, sequences


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(losses, "PIECE", 7 * VOCABULARY)  # some positions at a time


def batch_of(path, estimator, **options):
    rows = sequences(6, longest=9)
    cache = write_token_logits(Table(), rows, path, estimator, fingerprints=FINGERPRINTS, **options)
    return cache.batch([4, 1, 0, 5])


def student(batch, outputs: int = VOCABULARY, seed: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    n, length = batch.tokens.shape
    return torch.randn(n, length, outputs, generator=random).mul_(2).requires_grad_()


def same(loss, dense, logits: torch.Tensor) -> None:
    """Equal values and gradients."""
    gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, dense)]
    torch.testing.assert_close(loss, dense, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def mean(values: torch.Tensor, batch) -> torch.Tensor:
    return values[batch.loss].mean()


def dense_ce(logits, batch):
    flat = cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[2]), batch.labels.reshape(-1), reduction="none"
    )
    return flat.view(batch.loss.shape)


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("estimator", [Threshold(1 / 12, draws=2), RS(9)], ids=str)
def test_sampled(tmp_path, estimator, alpha):
    batch = batch_of(tmp_path, estimator)
    logits = student(batch)
    log_q = logits[:, :-1].log_softmax(2)
    kl = -(batch.dense() * log_q).sum(2) - batch.entropy
    same(
        kd_token_loss(logits, batch, alpha=alpha),
        mean((1 - alpha) * dense_ce(logits, batch) + alpha * kl, batch),
        logits,
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("divergence", ["kl", "reverse_kl"])
def test_full(tmp_path, divergence, temperature):
    batch = batch_of(tmp_path, Full())
    logits = student(batch)
    p, q = (batch.full / temperature).log_softmax(2), (logits[:, :-1] / temperature).log_softmax(2)
    p, q = (p, q) if divergence == "kl" else (q, p)
    kl = temperature**2 * (p.exp() * (p - q)).sum(2)
    found = kd_token_loss(logits, batch, alpha=0.6, temperature=temperature, divergence=divergence)
    same(found, mean(0.4 * dense_ce(logits, batch) + 0.6 * kl, batch), logits)


def test_top_k_with_a_bucket(tmp_path):
    batch = batch_of(tmp_path, TopK(6))
    logits = student(batch)
    p, q = batch.dense(), logits[:, :-1].softmax(2)
    kept = torch.where(p > 0, p * (p.clamp_min(1e-30).log() - q.log()), 0.0).sum(2)
    rest, left = 1 - p.sum(2), (q * (p == 0)).sum(2)
    same(kd_token_loss(logits, batch), mean(kept + rest * (rest / left).log(), batch), logits)


def test_top_k_renormalised_says_what_it_does(tmp_path):
    batch = batch_of(tmp_path, TopK(6))
    logits = student(batch)
    with pytest.warns(UserWarning, match="over-confident"):
        found = kd_token_loss(logits, batch, tail="renormalise")
    p = batch.dense() / batch.dense().sum(2, keepdim=True).clamp_min(1e-9)
    kl = (torch.xlogy(p, p) - p * logits[:, :-1].log_softmax(2)).sum(2)
    same(found, mean(kl, batch), logits)


def test_a_cache_of_another_temperature(tmp_path):
    batch = batch_of(tmp_path, Threshold(1 / 12), temperature=2.0)
    logits = student(batch)
    kl = -(batch.dense() * (logits[:, :-1] / 2).log_softmax(2)).sum(2) - batch.entropy
    dense = mean(0.5 * dense_ce(logits, batch) + 0.5 * 4 * kl, batch)
    same(kd_token_loss(logits, batch, alpha=0.5), dense, logits)


def test_label_smoothing(tmp_path):
    batch = batch_of(tmp_path, Threshold(1 / 12))
    logits = student(batch)
    flat = logits[:, :-1].reshape(-1, VOCABULARY)
    dense = cross_entropy(flat, batch.labels.reshape(-1), label_smoothing=0.1, reduction="none")
    same(smoothed_token_loss(logits, batch, 0.1), mean(dense.view(batch.loss.shape), batch), logits)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_tf_reg(tmp_path, temperature):
    batch = batch_of(tmp_path, Threshold(1 / 12))
    logits = student(batch)
    p = torch.full((*batch.loss.shape, VOCABULARY), 0.01 / (VOCABULARY - 1))
    p.scatter_(2, batch.labels[..., None], 0.99)
    log_p = (p.log() / temperature).log_softmax(2)
    kl = temperature**2 * (log_p.exp() * (log_p - (logits[:, :-1] / temperature).log_softmax(2))).sum(2)
    dense = mean(0.5 * dense_ce(logits, batch) + 0.5 * kl, batch)
    found = designed_token_loss(logits, batch, 0.5, temperature=temperature)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found, dense)]
    torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("estimator", [Threshold(1 / 12), RS(12)], ids=str)
def test_the_mean_over_draws_is_the_full_kl(tmp_path, estimator):
    """The same row many times: its id decides the draw. 4 standard errors of value and gradient."""
    row, count = sequences(1)[0], 600
    rows = [row] * count
    sampled = write_token_logits(Table(), rows, tmp_path / "s", estimator, fingerprints=FINGERPRINTS)
    full = write_token_logits(Table(), [row], tmp_path / "f", Full(), fingerprints=FINGERPRINTS)
    one = full.batch([0])
    logits = student(one)
    wanted = kd_token_loss(logits, one)
    (gradient,) = torch.autograd.grad(wanted, logits)
    many = sampled.batch(torch.arange(count))
    wide = logits.detach().expand(count, -1, -1).clone().requires_grad_()
    values = kd_token_loss(wide, many, reduction="none")
    (each,) = torch.autograd.grad(values.sum() / values.shape[1], wide)
    per_draw = values.detach().double().mean(1)
    assert abs(per_draw.mean() - wanted.detach()) < 4 * per_draw.std() / count**0.5 + 2e-3
    error = each.double().std(0) / count**0.5
    drawn = each.double().std(0) > 0
    assert ((each.double().mean(0) - gradient[0]).abs() <= 4 * error + 2e-3 * gradient[0].abs() + 1e-4)[
        drawn
    ].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tmp_path, dtype):
    batch = batch_of(tmp_path, Threshold(1 / 12))
    logits = student(batch)
    half = logits.detach().to(dtype).requires_grad_()
    loss = kd_token_loss(half, batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == dtype
    torch.testing.assert_close(loss, kd_token_loss(logits, batch), rtol=2e-2, atol=2e-2)


def gradient_of(loss, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits)[0].double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (1.0, 0.6), (1.0, 1.0), (3.0, 1.0)])
def test_the_gradient_of_half_precision_is_rounded_once(tmp_path, dtype, temperature, alpha):
    """Its error is that of the exact gradient, rounded; the student is close to the teacher, so terms cancel."""
    batch = batch_of(tmp_path, Threshold(1 / 12), temperature=temperature)
    noise = 0.3 * student(batch).detach()
    half = (Table()(batch.tokens) + noise).to(dtype).requires_grad_()
    exact = half.detach().double().requires_grad_()
    kl = -(batch.dense().double() * (exact[:, :-1] / temperature).log_softmax(2)).sum(2)
    loss = mean((1 - alpha) * dense_ce(exact, batch) + alpha * temperature**2 * kl, batch)
    wanted, found = gradient_of(loss, exact), gradient_of(kd_token_loss(half, batch, alpha=alpha), half)
    rounded = (wanted.to(dtype).double() - wanted).norm()
    assert (found - wanted).norm() < 1.05 * rounded + 1e-5 * wanted.norm()


MORE = VOCABULARY + 10
PADDED = [
    (Threshold(1 / 12), {}),
    (RS(9), {}),
    (TopK(6), {}),
    (TopK(6), {"tail": "renormalise"}),
    (Full(), {}),
    (Full(), {"divergence": "reverse_kl"}),
]


def dense_kl(
    z: torch.Tensor, batch, tau: float, tail: str = "bucket", divergence: str = "kl"
) -> torch.Tensor:
    """KL at each position, in float64, with a student that has more outputs than there are tokens."""
    p, log_q = batch.dense().double(), (z / tau).log_softmax(2)[..., :VOCABULARY]
    if batch.full is not None:
        p = (batch.full.double() * batch.temperature / tau).softmax(2)
    if divergence == "reverse_kl":
        log_q = (z[..., :VOCABULARY] / tau).log_softmax(2)
        return (log_q.exp() * (log_q - p.log())).sum(2)
    if tail == "renormalise":
        p = p / p.sum(2, keepdim=True).clamp_min(1e-30)
    kl = (torch.xlogy(p, p) - p * log_q).sum(2)
    if isinstance(batch.estimator, Threshold | RS):
        return -(p * log_q).sum(2) - batch.entropy.double()
    if isinstance(batch.estimator, TopK) and tail == "bucket":
        rest, left = 1 - p.sum(2), (log_q.exp() * (p == 0)).sum(2)
        kl = kl + rest * (rest / left).log()
    return kl


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(("estimator", "options"), PADDED, ids=str)
@pytest.mark.filterwarnings("ignore:renormalised top-k")
def test_padded_outputs_have_the_target_0(tmp_path, estimator, options, temperature, alpha):
    batch = batch_of(tmp_path, estimator, temperature=temperature)
    logits = student(batch, outputs=MORE)
    exact = logits.detach().double().requires_grad_()
    kl = dense_kl(exact[:, :-1], batch, temperature, **options)
    wanted = mean((1 - alpha) * dense_ce(exact, batch) + alpha * temperature**2 * kl, batch)
    loss = kd_token_loss(logits, batch, alpha=alpha, **options)
    found = gradient_of(loss, logits)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, gradient_of(wanted, exact), rtol=1e-4, atol=1e-7)
    takes = alpha < 1 or "divergence" not in options
    assert found[:, :-1, VOCABULARY:][batch.loss].gt(0).all() == takes
    assert not found[:, -1].any()
    assert not found[:, :-1][~batch.loss].any()


def test_padded_outputs_without_a_teacher(tmp_path):
    batch = batch_of(tmp_path, Threshold(1 / 12))
    logits = student(batch, outputs=MORE)
    exact = logits.detach().double().requires_grad_()
    label = torch.nn.functional.one_hot(batch.labels, MORE).double()
    tokens = (torch.arange(MORE) < VOCABULARY).double()
    designed = 0.99 * label + 0.01 / (VOCABULARY - 1) * (tokens - label)
    soft = torch.where(tokens > 0, designed, 0) ** (1 / 4)
    soft = soft / soft.sum(2, keepdim=True)

    def cross(target, tau: float = 1.0):
        return -(target * (exact[:, :-1] / tau).log_softmax(2)).sum(2)

    kl = cross(soft, 4.0) + torch.xlogy(soft, soft).sum(2)
    expected = [
        (smoothed_token_loss(logits, batch, 0.0), cross(label)),
        (smoothed_token_loss(logits, batch, 0.1), cross(0.9 * label + 0.1 * tokens / VOCABULARY)),
        (-mean(token_log_likelihood(logits, batch).view(batch.loss.shape), batch), cross(label)),
        (designed_token_loss(logits, batch, 0.5, temperature=4.0), 0.5 * cross(label) + 0.5 * 16 * kl),
    ]
    for loss, wanted in expected:
        torch.testing.assert_close(loss.double(), mean(wanted, batch), rtol=1e-5, atol=1e-5)
        gradients = gradient_of(loss, logits), gradient_of(mean(wanted, batch), exact)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("estimator", "options"), PADDED, ids=str)
@pytest.mark.filterwarnings("ignore:renormalised top-k")
def test_padded_outputs_that_the_student_rules_out_change_nothing(tmp_path, estimator, options):
    batch = batch_of(tmp_path, estimator)
    logits = student(batch)
    wide = torch.nn.functional.pad(logits, (0, 10), value=-torch.inf)
    losses_of = [kd_token_loss(z, batch, alpha=0.6, **options) for z in (logits, wide)]
    torch.testing.assert_close(*losses_of)
    torch.testing.assert_close(*(gradient_of(loss, logits) for loss in losses_of))


def test_without_the_last_position(tmp_path):
    batch = batch_of(tmp_path, Threshold(1 / 12))
    logits = student(batch)
    torch.testing.assert_close(kd_token_loss(logits[:, :-1], batch), kd_token_loss(logits, batch))


@pytest.mark.parametrize("estimator", [Threshold(1 / 12), RS(9), TopK(4)], ids=str)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "reverse_kl"}, "reverse KL needs the teacher's log-probability of every token"),
        ({"temperature": 2.0}, r"this cache is of temperature 1; p\^\(1/2\) needs every token's probability"),
        ({"alpha": 1.5}, "expected alpha from 0 to 1"),
        ({"tail": "drop"}, "there is no tail 'drop'"),
        ({"reduction": "sum"}, "there is no reduction 'sum'"),
    ],
)
def test_what_a_cache_cannot_do(tmp_path, estimator, options, message):
    batch = batch_of(tmp_path, estimator)
    with pytest.raises(CacheError, match=message):
        kd_token_loss(student(batch), batch, **options)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("estimator", [Threshold(1 / 12), Full()], ids=str)
@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (kd_token_loss, {"alpha": NAN}, "expected alpha from 0 to 1, found nan"),
        (kd_token_loss, {"alpha": -0.1}, "expected alpha from 0 to 1, found -0.1"),
        (kd_token_loss, {"temperature": NAN}, "expected a temperature above 0, and finite, found nan"),
        (kd_token_loss, {"temperature": INF}, "expected a temperature above 0, and finite, found inf"),
        (kd_token_loss, {"temperature": 0}, "expected a temperature above 0, and finite, found 0"),
        (smoothed_token_loss, {"alpha": 5.0}, "expected alpha from 0 to 1, found 5.0"),
        (designed_token_loss, {"alpha": -1.0}, "expected alpha from 0 to 1, found -1.0"),
        (designed_token_loss, {"temperature": 0.0}, "expected a temperature above 0, and finite, found 0.0"),
        (designed_token_loss, {"correct": 2.0}, "expected correct above 0 and below 1, found 2.0"),
        (designed_token_loss, {"correct": 0.0}, "expected correct above 0 and below 1, found 0.0"),
        (designed_token_loss, {"correct": 1.0}, "expected correct above 0 and below 1, found 1.0"),
    ],
)
def test_numbers_that_no_loss_has(tmp_path, estimator, loss, options, message):
    batch = batch_of(tmp_path, estimator)
    with pytest.raises(CacheError, match=message):
        loss(student(batch), batch, **options)


RULED_OUT = 7


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        (Full(), {}),
        (Full(), {"divergence": "reverse_kl"}),
        (TopK(VOCABULARY), {}),
        (TopK(VOCABULARY), {"tail": "renormalise"}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:renormalised top-k")
def test_a_token_that_both_models_rule_out_adds_nothing(tmp_path, estimator, options, temperature):
    """Value and gradient are those over the other tokens alone."""
    kept = [token for token in range(VOCABULARY) if token != RULED_OUT]
    rows = [
        {"input_ids": [kept[token % 100] for token in row["input_ids"]]} for row in sequences(6, longest=9)
    ]
    table = Table()

    def teacher(input_ids, attention_mask=None):
        return table(input_ids).index_fill(2, torch.tensor(RULED_OUT), -torch.inf)

    cache = write_token_logits(
        teacher, rows, tmp_path, estimator, temperature=temperature, fingerprints=FINGERPRINTS
    )
    batch = cache.batch([4, 1, 0, 5])
    logits = student(batch)
    loss = kd_token_loss(
        logits.index_fill(2, torch.tensor(RULED_OUT), -torch.inf), batch, alpha=0.7, **options
    )
    p = batch.dense()[..., kept]
    log_p = (p / p.sum(2, keepdim=True).clamp_min(1e-9)).clamp_min(1e-30).log()
    log_q = (logits[:, :-1, kept] / temperature).log_softmax(2)
    log_p, log_q = (log_q, log_p) if options.get("divergence") else (log_p, log_q)
    labels = torch.searchsorted(torch.tensor(kept), batch.labels.contiguous())
    ce = -logits[:, :-1, kept].log_softmax(2).gather(2, labels[..., None])[..., 0]
    kl = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(2)
    found, wanted = (
        torch.autograd.grad(value, logits)[0] for value in (loss, mean(0.3 * ce + 0.7 * kl, batch))
    )
    torch.testing.assert_close(loss, mean(0.3 * ce + 0.7 * kl, batch), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-4)
    assert not found[..., RULED_OUT].any()


def teacher_without_a_token(input_ids, attention_mask=None):
    return Table()(input_ids).index_fill(2, torch.tensor(RULED_OUT), -torch.inf)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize(
    ("estimator", "options"), [case for case in PADDED if "divergence" not in case[1]], ids=str
)
@pytest.mark.filterwarnings("ignore:renormalised top-k")
def test_tokens_without_weight_that_the_student_rules_out(tmp_path, estimator, options, alpha, temperature):
    """With alpha 1 labels are ruled out too: the CE is then infinite, and does not count."""
    rows = sequences(6, longest=9)
    cache = write_token_logits(
        teacher_without_a_token, rows, tmp_path, estimator, temperature=temperature, fingerprints=FINGERPRINTS
    )
    batch = cache.batch([4, 1, 0, 5])
    logits = student(batch)
    label = torch.nn.functional.one_hot(batch.labels, VOCABULARY).bool()
    # some tokens stay in the bucket of a top-k cache
    ruled_out = (batch.dense() == 0) & (torch.arange(VOCABULARY) % 3 < 2) & ~(label & (alpha < 1))
    ruled_out &= batch.loss[..., None]
    assert (label & ruled_out).any() == (alpha == 1 and not isinstance(estimator, Full))
    exact = logits.detach().double().requires_grad_()
    # a probability of e^-700 is 0, but its logarithm is a number
    cut = exact[:, :-1].masked_fill(ruled_out, -700.0 * temperature)
    kl = dense_kl(cut, batch, temperature, **options)
    ce = -cut.log_softmax(2).gather(2, batch.labels[..., None])[..., 0]
    wanted = mean((1 - alpha) * ce + alpha * temperature**2 * kl, batch)
    loss = kd_token_loss(logits[:, :-1].masked_fill(ruled_out, -torch.inf), batch, alpha=alpha, **options)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient_of(loss, logits), gradient_of(wanted, exact), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("estimator", "options"), PADDED, ids=str)
@pytest.mark.filterwarnings("ignore:renormalised top-k")
def test_alpha_0_is_cross_entropy_where_kl_is_infinite(tmp_path, estimator, options, temperature):
    batch = batch_of(tmp_path, estimator, temperature=temperature)
    logits = student(batch)
    label = torch.nn.functional.one_hot(batch.labels, VOCABULARY).bool()
    z = logits[:, :-1].masked_fill((batch.dense() > 0.02) & ~label, -torch.inf)
    if "divergence" not in options:
        assert kd_token_loss(z, batch, **options).isinf()
    log_q = z.double().log_softmax(2)
    wanted = mean(-log_q.gather(2, batch.labels[..., None])[..., 0], batch)
    (gradient,) = torch.autograd.grad(wanted, logits, retain_graph=True)
    found = [
        kd_token_loss(z, batch, alpha=0.0, **options),
        smoothed_token_loss(z, batch, 0.0),
        designed_token_loss(z, batch, 0.0, temperature=temperature),
    ]
    for loss in found:
        torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)
        (each,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(each, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("how", "options", "message"),
    [
        (Threshold(1 / 12), {"alpha": 5.0}, "expected alpha from 0 to 1, found 5.0"),
        (Full(), {"temperature": 0.0}, "expected a temperature above 0, and finite, found 0.0"),
        (
            RS(9),
            {"temperature": 1.0},
            r"this cache is of temperature 2; p\^\(1/1\) needs every token's probability",
        ),
        (TopK(4), {"tail": "drop"}, "there is no tail 'drop'"),
        (
            TopK(4),
            {"divergence": "reverse_kl"},
            "reverse KL needs the teacher's log-probability of every token",
        ),
    ],
)
def test_options_are_checked_without_logits(how, options, message):
    with pytest.raises(CacheError, match=message):
        check_kd(how, 2.0, **options)


def test_options_that_a_cache_allows():
    check_kd(RS(9), 2.0)
    check_kd(TopK(4), 2.0, 0.5, 2.0, "bucket", "kl")
    check_kd(Full(), 2.0, temperature=1.0, divergence="reverse_kl")
    with pytest.warns(UserWarning, match="over-confident"):
        check_kd(TopK(4), 2.0, tail="renormalise")


def test_logits_that_do_not_fit(tmp_path):
    batch = batch_of(tmp_path, Threshold(1 / 12))
    logits = student(batch)
    for wrong in (logits[:2], logits[:, :3], logits[0], torch.cat([logits, logits], 1)):
        with pytest.raises(CacheError, match="of the batch's own tokens"):
            kd_token_loss(wrong, batch)
    with pytest.raises(CacheError, match=r"need the same tokenizer.*padded outputs.*`vocabulary=`"):
        kd_token_loss(logits[..., :100], batch)
