"""Losses at every token against a token cache, in little memory.

Let z be the student's logits at a position, lse = logsumexp z and q = softmax z. Every loss, except that of a full
cache, needs only lse, z at the stored entries and at the true token, and the sum of z. `_Read` computes these, some
positions at a time, and returns all their gradients in one tensor. At temperature 1, this gradient is the only new
tensor as large as the logits. At another temperature the CE has a gradient of its own, and so has a full cache's KL.

A student may have more than V outputs (padded outputs, which stand for no token). lse and q are over all of them: a
target is 0 there, so every loss takes probability from them, as the cross-entropy of transformers does. The sum of z is
over the V tokens.

Arithmetic is in float32, whatever the logits are, and each gradient is rounded to their type once.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from kdcache.errors import CacheError
from kdcache.logits.tokens.batch import TokenBatch
from kdcache.logits.tokens.estimators import Estimator, Full, TopK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

PIECE = 1 << 22  # logits that are processed at once
Tail = Literal["bucket", "renormalise"]
Divergence = Literal["kl", "reverse_kl"]
Reduction = Literal["mean", "none"]


def kd_token_loss(
    logits: Tensor,
    batch: TokenBatch,
    *,
    alpha: float = 1.0,
    temperature: float | None = None,
    tail: Tail = "bucket",
    divergence: Divergence = "kl",
    reduction: Reduction = "mean",
) -> Tensor:
    """Knowledge distillation from cached distributions: (1 - alpha) CE + alpha tau^2 KL(teacher || student).

    Let t be the cache's target (entries i with weights t_i that sum to one) and H the teacher's entropy:

    - sampled (`Threshold`, `RS`): lse - sum_i t_i z_i - H. The mean over draws is the full KL.
      The same holds for the gradient.
    - top-k, `bucket`: sum_K p log(p / q) + T log(T / (sum of q over the other tokens)), with T the probability of all
      other tokens.
    - top-k, `renormalise`: lse - sum_K (p_i / P) z_i with P = sum_K p, minus its minimum. It is biased, and warns.
    - full: sum_v p (log p - log q).

    A term of weight 0 is left out. So alpha 0 gives CE and alpha 1 tau^2 KL, even where the other is infinite.

    Args:
        logits: the student's logits [n, L, V], or [n, L - 1, V] without the last position. V is the cache's V, or more:
            outputs beyond the cache's V stand for no token. q and CE are over all outputs; the target is 0 beyond V.
        alpha: the weight of the distillation term, from 0 to 1.
        temperature: tau, above 0. Default: the cache's temperature. Another temperature needs a full cache.
        tail: what is done with the probability of the tokens that a top-k cache lacks.
        divergence: `reverse_kl` is KL(student || teacher). It needs a full cache. It is over the first V outputs alone:
            the teacher has probability 0 beyond, where it would be infinite. So there only CE, which needs alpha below
            1, takes the student's probability from the outputs beyond V.
        reduction: "mean" over the positions that have a token to predict, or "none": [n, L - 1], zeros elsewhere.

    Raises:
        CacheError: the logits do not fit the batch, a number is out of its range, or the cache lacks something that
            the loss needs (the message says what).
    """
    check_kd(batch.estimator, batch.temperature, alpha, temperature, tail, divergence)
    if alpha == 0:
        return smoothed_token_loss(logits, batch, 0.0, reduction=reduction)
    student = _Student.of(logits, batch)
    tau = batch.temperature if temperature is None else float(temperature)
    if batch.full is not None:
        values, kl = None, _full(student, batch, tau, divergence)
    else:
        values = student.read(batch, tau)
        kl = _bucket(values, batch) if _is_bucket(batch, tail) else _sparse(values, batch)
    return _reduced(_with_ce(kl, alpha, tau, student, batch, values), batch, reduction)


def check_kd(
    how: Estimator,
    cache_temperature: float,
    alpha: float = 1.0,
    temperature: float | None = None,
    tail: str = "bucket",
    divergence: str = "kl",
) -> None:
    """Refuse what `kd_token_loss` cannot do with a cache, before there are logits. Renormalised top-k warns.

    Args:
        how: the cache's estimator.
        cache_temperature: the cache's temperature.
        alpha, temperature, tail, divergence: as for `kd_token_loss`.

    Raises:
        CacheError: a number is out of its range, or the cache lacks something that the loss needs.
    """
    tau = cache_temperature if temperature is None else temperature
    _check_numbers(alpha, tau)
    if tail not in ("bucket", "renormalise") or divergence not in ("kl", "reverse_kl"):
        raise CacheError(f"there is no tail {tail!r} with the divergence {divergence!r}")
    if isinstance(how, Full):
        return
    if divergence == "reverse_kl":
        raise CacheError(
            f"reverse KL needs the teacher's log-probability of every token that the student may give, a {how.kind} "
            "cache has those of some; cache with Full()"
        )
    if tau != cache_temperature:
        raise CacheError(
            f"this cache is of temperature {cache_temperature:g}; p^(1/{tau:g}) needs every token's probability, which "
            f"a {how.kind} cache has not; cache at that temperature, or with Full()"
        )
    if isinstance(how, TopK) and tail == "renormalise":
        warnings.warn(
            "renormalised top-k raises the probability of the k tokens and says that no other can follow: the student "
            'becomes over-confident, and may do worse than without a teacher; tail="bucket" keeps what is missing',
            stacklevel=3,
        )


def smoothed_token_loss(
    logits: Tensor, batch: TokenBatch, alpha: float = 0.1, *, reduction: Reduction = "mean"
) -> Tensor:
    """Label smoothing, in closed form: (1 - alpha)(lse - z_y) + alpha (lse - mean z). No teacher is needed.

    Args:
        logits, reduction: as for `kd_token_loss`. The mean of z is over the V tokens, lse over all outputs.
        alpha: the weight of the uniform distribution over all V tokens, from 0 to 1.

    Raises:
        CacheError: the logits do not fit the batch, or alpha is out of its range.
    """
    _check_numbers(alpha)
    values = _Student.of(logits, batch).read(batch, entries=False)
    smoothed = _times(alpha, values.total) / batch.vocabulary
    return _reduced(values.lse - _times(1 - alpha, values.label) - smoothed, batch, reduction)


def designed_token_loss(
    logits: Tensor,
    batch: TokenBatch,
    alpha: float = 0.5,
    *,
    correct: float = 0.99,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """TF-reg, in closed form: (1 - alpha) CE + alpha tau^2 KL(p_tau || softmax(z / tau)), without a teacher.

    p has `correct` on the true token, and the rest is spread evenly over the other V - 1 tokens. p_tau is p^(1 / tau),
    normalised. It has only two values. So the KL needs only z at the true token, the sum of z, and logsumexp(z / tau).

    Args:
        logits, alpha, reduction: as for `kd_token_loss`.
        correct: the true token's probability, above 0 and below 1.
        temperature: tau, above 0.

    Raises:
        CacheError: the logits do not fit the batch, or a number is out of its range.
    """
    _check_numbers(alpha, temperature, correct)
    if alpha == 0:
        return smoothed_token_loss(logits, batch, 0.0, reduction=reduction)
    count = batch.vocabulary
    other = (1 - correct) / (count - 1)
    powers = torch.tensor([correct, other], dtype=torch.float64) ** (1 / temperature)
    true, each = (powers / (powers[0] + (count - 1) * powers[1])).tolist()
    entropy = -sum(n * p * math.log(p) for n, p in ((1, true), (count - 1, each)) if p)
    student = _Student.of(logits, batch)
    values = student.read(batch, temperature, entries=False)
    lse, label, total = values.lse, values.label, values.total
    kl = lse - _times(true, label) - _times(each, total - label) - entropy
    return _reduced(_with_ce(kl, alpha, temperature, student, batch, values), batch, reduction)


def token_log_likelihood(logits: Tensor, batch: TokenBatch) -> Tensor:
    """The student's log-probability of each next token, over all outputs, [P] in nats, differentiable."""
    values = _Student.of(logits, batch).read(batch, entries=False)
    return values.label - values.lse


class _Values(NamedTuple):
    """What the losses need from the logits z, divided by a temperature; float32."""

    lse: Tensor  # [P], over all outputs
    entries: Tensor  # [E], z at the entries
    label: Tensor  # [P], z at the true next tokens
    total: Tensor  # [P], the sum of z over the V tokens
    beyond: Tensor  # [P], the probability of all outputs beyond V


@dataclass(frozen=True)
class _Student:
    """The student's logits, without a copy."""

    rows: Tensor  # [n L, V or more], a view
    at: Tensor  # int64 [P], the row of each position that has a next token
    vocabulary: int

    @classmethod
    def of(cls, logits: Tensor, batch: TokenBatch) -> _Student:
        n, positions = batch.loss.shape
        if logits.ndim != 3 or logits.shape[0] != n or logits.shape[1] not in (positions, positions + 1):
            raise CacheError(
                f"expected logits [{n}, {positions + 1}, V] for the batch's tokens, found {list(logits.shape)}: they "
                "must be of the batch's own tokens, in its order"
            )
        if logits.shape[2] < batch.vocabulary:
            raise CacheError(
                f"the student has {logits.shape[2]} outputs, the cache's distributions are over {batch.vocabulary} "
                "tokens; teacher and student need the same tokenizer. If they have it, the cache was written with "
                "the teacher's padded outputs: write it again, with `vocabulary=` the number of the tokenizer's tokens"
            )
        rows = torch.arange(n * logits.shape[1], device=logits.device).view(n, -1)[:, :positions].reshape(-1)
        return cls(logits.reshape(-1, logits.shape[2]), rows, batch.vocabulary)

    def read(self, batch: TokenBatch, tau: float = 1.0, entries: bool = True) -> _Values:
        """What the losses need from the logits, divided by a temperature; without the entries if they are not asked."""
        chosen = slice(None) if entries else slice(0, 0)
        apply: Any = _Read.apply
        at, label = self.at, batch.labels.reshape(-1)
        where, token = at[batch.position[chosen]], batch.token[chosen]
        lse, entry, true, total, beyond = apply(self.rows, self.vocabulary, tau, where, token, at, label)
        return _Values(lse[at], entry, true, total[at], beyond[at])


def _check_numbers(alpha: float, temperature: float = 1.0, correct: float = 0.5) -> None:
    """Refuse numbers that no loss has, NaN among them."""
    if not 0 <= alpha <= 1:
        raise CacheError(f"expected alpha from 0 to 1, found {alpha}")
    if not 0 < temperature < math.inf:
        raise CacheError(f"expected a temperature above 0, and finite, found {temperature}")
    if not 0 < correct < 1:
        raise CacheError(f"expected correct above 0 and below 1, found {correct}")


def _is_bucket(batch: TokenBatch, tail: str) -> bool:
    return isinstance(batch.estimator, TopK) and tail == "bucket"


def _sums(values: Tensor, batch: TokenBatch) -> Tensor:
    """Each position's sum over its entries, [P]."""
    return torch.zeros(batch.loss.numel(), dtype=values.dtype, device=values.device).index_add(
        0, batch.position, values
    )


def _with_ce(
    kl: Tensor, alpha: float, tau: float, student: _Student, batch: TokenBatch, values: _Values | None
) -> Tensor:
    """(1 - alpha) CE + alpha tau^2 KL for alpha above 0.

    Args:
        values: what was read at temperature tau, if anything. At 1 the CE shares its gradient tensor.
    """
    if alpha == 1:
        return tau**2 * kl
    plain = values if values is not None and tau == 1 else student.read(batch, entries=False)
    return (1 - alpha) * (plain.lse - plain.label) + alpha * tau**2 * kl


def _times(weight: float, values: Tensor) -> Tensor:
    """The values times a weight, but 0 for the weight 0: a token that the student rules out (-inf) adds 0, not NaN."""
    return weight * values if weight else torch.zeros_like(values)


def _sparse(values: _Values, batch: TokenBatch) -> Tensor:
    """KL for targets that sum to one, or are renormalised: cross-entropy minus the teacher's (or target's) entropy."""
    weight = batch.weight
    if isinstance(batch.estimator, TopK):
        weight = weight / _sums(weight, batch)[batch.position]
        entropy = -_sums(torch.xlogy(weight, weight), batch)
    else:
        entropy = batch.entropy.reshape(-1)
    return values.lse - _sums(weight * _where_weighed(values.entries, weight), batch) - entropy


def _bucket(values: _Values, batch: TokenBatch) -> Tensor:
    """KL over the k tokens and one bucket of all others. Only the student's bucket has a lower limit.

    Outputs beyond V are not in the bucket: the teacher gives them no probability.
    """
    log_q = values.entries - values.lse[batch.position]
    rest = (1 - _sums(batch.weight, batch)).clamp_min(0)
    taken = _sums(log_q.exp(), batch) + values.beyond
    student = torch.log1p(-taken.clamp_max(1 - 1e-6))
    weighed = batch.weight * _where_weighed(log_q, batch.weight)
    kept = _sums(torch.xlogy(batch.weight, batch.weight) - weighed, batch)
    return kept + torch.xlogy(rest, rest) - rest * student


def _where_weighed(values: Tensor, weight: Tensor) -> Tensor:
    """The values, but 0 where their weight is 0: a token that both models rule out (-inf) adds 0, not 0 * inf."""
    return torch.where(weight == 0, 0.0, values)


def _full(student: _Student, batch: TokenBatch, tau: float, divergence: str) -> Tensor:
    """KL [P] from every token's log-probability, some positions at a time."""
    from torch.utils.checkpoint import checkpoint

    assert batch.full is not None
    rows, full = student.rows, batch.full.view(-1, batch.vocabulary)
    step = _step(rows)
    pieces = [
        checkpoint(_dense_kl, rows, at, teacher, batch.temperature, tau, divergence, use_reentrant=False)
        for at, teacher in zip(torch.split(student.at, step), torch.split(full, step), strict=True)
    ]
    return torch.cat(pieces)


def _dense_kl(
    rows: Tensor, at: Tensor, logprobs: Tensor, temperature: float, tau: float, divergence: str
) -> Tensor:
    reverse, vocabulary = divergence == "reverse_kl", logprobs.shape[1]
    log_p = (logprobs * (temperature / tau)).log_softmax(1)
    outputs = rows[at, :vocabulary] if reverse else rows[at]
    log_q = _softened(outputs, tau).log_softmax(1)[:, :vocabulary]
    if reverse:
        log_p, log_q = log_q, log_p
    p = log_p.exp()
    return (p * _where_weighed(log_p - log_q, p)).sum(1)


def _step(rows: Tensor) -> int:
    """How many positions are processed at once."""
    return max(PIECE // rows.shape[1], 1)


def _softened(logits: Tensor, tau: float) -> Tensor:
    """Logits in float32, divided by a temperature. At 1, float32 logits are not copied."""
    return logits.float() if tau == 1 else logits.float() / tau


class _Read(torch.autograd.Function):
    """Computes `_Values` from logits. Backward makes one gradient of their size, and nothing else as big."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        vocabulary: int,
        tau: float,
        where: Tensor,
        token: Tensor,
        at: Tensor,
        label: Tensor,
    ) -> tuple[Tensor, ...]:
        pieces = [_summed(_softened(piece, tau), vocabulary) for piece in torch.split(rows, _step(rows))]
        lse, total, beyond = (torch.cat(sums) for sums in zip(*pieces, strict=True))
        ctx.save_for_backward(rows, lse, beyond, where, token, at, label)
        ctx.vocabulary, ctx.tau = vocabulary, tau
        return lse, _softened(rows[where, token], tau), _softened(rows[at, label], tau), total, beyond

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, lse, beyond, where, token, at, label = ctx.saved_tensors
        by_lse, by_entry, by_label, by_total, by_beyond = gradients
        inside = by_lse - by_beyond * beyond  # the probability beyond V falls as lse grows
        outside = inside + by_beyond
        gradient = torch.empty_like(rows)
        for here, entries, labels in _pieces(rows, where, at):
            piece = (_softened(rows[here], ctx.tau) - lse[here, None]).exp_()
            piece[:, : ctx.vocabulary].mul_(inside[here, None]).add_(by_total[here, None])
            piece[:, ctx.vocabulary :].mul_(outside[here, None])
            for chosen, row, column, by in ((entries, where, token, by_entry), (labels, at, label, by_label)):
                index = (row[chosen] - here.start, column[chosen])
                piece.index_put_(index, by[chosen], accumulate=True)
            gradient[here] = piece if ctx.tau == 1 else piece.div_(ctx.tau)
        return gradient, None, None, None, None, None, None


def _summed(logits: Tensor, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """(lse, the sum over the V tokens, the probability beyond V) of each position."""
    lse = logits.logsumexp(1)
    beyond = (logits[:, vocabulary:] - lse[:, None]).exp().sum(1)
    return lse, logits[:, :vocabulary].sum(1), beyond


def _pieces(rows: Tensor, where: Tensor, at: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """For each piece of the logits: its rows, its entries, and its labels. Entries and labels go by ascending row."""
    step = _step(rows)
    edges = torch.arange(0, len(rows) + step, step, device=rows.device)
    parts = (pairwise(torch.searchsorted(index, edges).tolist()) for index in (where, at))
    for start, entries, labels in zip(range(0, len(rows), step), *parts, strict=True):
        yield slice(start, start + step), slice(*entries), slice(*labels)


def _reduced(loss: Tensor, batch: TokenBatch, reduction: str) -> Tensor:
    if reduction not in ("mean", "none"):
        raise CacheError(f"there is no reduction {reduction!r}; there are mean and none")
    chosen = batch.loss.reshape(-1)
    loss = torch.where(chosen, loss, 0.0)
    return loss.view(batch.loss.shape) if reduction == "none" else loss.sum() / chosen.sum().clamp_min(1)
