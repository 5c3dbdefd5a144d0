"""Losses at every token against a token cache, in little memory.

Let z be the student's logits at a position, lse = logsumexp z and q = softmax z. Every loss, except that of a full
cache, needs only lse, z at the stored entries and at the true token, and the sum of z. `_Read` computes these, some
positions at a time, and returns all their gradients in one tensor. At temperature 1, this gradient is the only new
tensor as large as the logits. Another temperature makes the divided logits beside it, and their gradient; a full
cache's KL makes a gradient of its own.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from kdcache.errors import CacheError
from kdcache.logits.tokens.batch import TokenBatch
from kdcache.logits.tokens.estimators import Full, TopK

if TYPE_CHECKING:
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
    - top-k, `bucket`: sum_K p log(p / q) + T log(T / (1 - sum_K q)), with T the probability of all other tokens.
    - top-k, `renormalise`: lse - sum_K (p_i / P) z_i with P = sum_K p, minus its minimum. It is biased, and warns.
    - full: sum_v p (log p - log q).

    Args:
        logits: the student's logits [n, L, V], or [n, L - 1, V] without the last position. V is the cache's V, or more
            (padded outputs, which are ignored).
        alpha: the weight of the distillation term, from 0 to 1.
        temperature: tau, above 0. Default: the cache's temperature. Another temperature needs a full cache.
        tail: what is done with the probability of the tokens that a top-k cache lacks.
        divergence: `reverse_kl` is KL(student || teacher). It needs a full cache.
        reduction: "mean" over the positions that have a token to predict, or "none": [n, L - 1], zeros elsewhere.

    Raises:
        CacheError: the logits do not fit the batch, a number is out of its range, or the cache lacks something that
            the loss needs (the message says what).
    """
    student = _Student.of(logits, batch)
    tau = batch.temperature if temperature is None else float(temperature)
    _check(batch, alpha, tau, tail, divergence)
    softened = student.softened(tau)
    lse, entries, label, _ = softened.read(batch)
    if batch.full is not None:
        kl = _full(softened, batch, tau, divergence)
    else:
        kl = _bucket(lse, entries, batch) if _is_bucket(batch, tail) else _sparse(lse, entries, batch)
    ce = lse - label if tau == 1 else -token_log_likelihood(logits, batch)
    return _reduced((1 - alpha) * ce + alpha * tau**2 * kl, batch, reduction)


def smoothed_token_loss(
    logits: Tensor, batch: TokenBatch, alpha: float = 0.1, *, reduction: Reduction = "mean"
) -> Tensor:
    """Label smoothing, in closed form: (1 - alpha)(lse - z_y) + alpha (lse - mean z). No teacher is needed.

    Args:
        logits, reduction: as for `kd_token_loss`.
        alpha: the weight of the uniform distribution over all V tokens, from 0 to 1.

    Raises:
        CacheError: the logits do not fit the batch, or alpha is out of its range.
    """
    _check_numbers(alpha)
    lse, _, label, total = _Student.of(logits, batch).read(batch, entries=False)
    return _reduced(lse - (1 - alpha) * label - alpha * total / batch.vocabulary, batch, reduction)


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

    p has `correct` on the true token, and the rest is spread evenly. p_tau is p^(1 / tau), normalised. It has only two
    values. So the KL needs only z at the true token, the sum of z, and logsumexp(z / tau).

    Args:
        logits, alpha, reduction: as for `kd_token_loss`.
        correct: the true token's probability, above 0 and below 1.
        temperature: tau, above 0.

    Raises:
        CacheError: the logits do not fit the batch, or a number is out of its range.
    """
    _check_numbers(alpha, temperature, correct)
    count = batch.vocabulary
    other = (1 - correct) / (count - 1)
    powers = torch.tensor([correct, other], dtype=torch.float64) ** (1 / temperature)
    true, each = (powers / (powers[0] + (count - 1) * powers[1])).tolist()
    entropy = -sum(n * p * math.log(p) for n, p in ((1, true), (count - 1, each)) if p)
    student = _Student.of(logits, batch).softened(temperature)
    lse, _, label, total = student.read(batch, entries=False)
    kl = lse - true * label - each * (total - label) - entropy
    ce = lse - label if temperature == 1 else -token_log_likelihood(logits, batch)
    return _reduced((1 - alpha) * ce + alpha * temperature**2 * kl, batch, reduction)


def token_log_likelihood(logits: Tensor, batch: TokenBatch) -> Tensor:
    """The student's log-probability of each next token, [P] in nats, differentiable."""
    lse, _, label, _ = _Student.of(logits, batch).read(batch, entries=False)
    return label - lse


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
                "tokens; teacher and student need the same tokenizer"
            )
        rows = torch.arange(n * logits.shape[1], device=logits.device).view(n, -1)[:, :positions].reshape(-1)
        return cls(logits.reshape(-1, logits.shape[2]), rows, batch.vocabulary)

    def softened(self, tau: float) -> _Student:
        """The logits divided by a temperature."""
        return self if tau == 1 else _Student(self.rows / tau, self.at, self.vocabulary)

    def read(self, batch: TokenBatch, entries: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(lse [P], z at the entries [E], z at the true next tokens [P], sum of z [P]), in float32."""
        chosen = slice(None) if entries else slice(0, 0)
        apply: Any = _Read.apply
        where = self.at[batch.position[chosen]]
        found = apply(
            self.rows, self.vocabulary, where, batch.token[chosen], self.at, batch.labels.reshape(-1)
        )
        return found[0][self.at], found[1], found[2], found[3][self.at]


def _check(batch: TokenBatch, alpha: float, tau: float, tail: str, divergence: str) -> None:
    how = batch.estimator
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
    if tau != batch.temperature:
        raise CacheError(
            f"this cache is of temperature {batch.temperature:g}; p^(1/{tau:g}) needs every token's probability, which "
            f"a {how.kind} cache has not; cache at that temperature, or with Full()"
        )
    if isinstance(how, TopK) and tail == "renormalise":
        warnings.warn(
            "renormalised top-k raises the probability of the k tokens and says that no other can follow: the student "
            'becomes over-confident, and may do worse than without a teacher; tail="bucket" keeps what is missing',
            stacklevel=3,
        )


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


def _sparse(lse: Tensor, entries: Tensor, batch: TokenBatch) -> Tensor:
    """KL for targets that sum to one, or are renormalised: cross-entropy minus the teacher's (or target's) entropy."""
    weight = batch.weight
    if isinstance(batch.estimator, TopK):
        weight = weight / _sums(weight, batch)[batch.position]
        entropy = -_sums(torch.xlogy(weight, weight), batch)
    else:
        entropy = batch.entropy.reshape(-1)
    return lse - _sums(weight * _where_weighed(entries, weight), batch) - entropy


def _bucket(lse: Tensor, entries: Tensor, batch: TokenBatch) -> Tensor:
    """KL over the k tokens and one bucket of all others. Only the student's bucket has a lower limit."""
    log_q = entries - lse[batch.position]
    rest = (1 - _sums(batch.weight, batch)).clamp_min(0)
    student = torch.log1p(-_sums(log_q.exp(), batch).clamp_max(1 - 1e-6))
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
    teacher, power = batch.full.view(-1, batch.vocabulary), batch.temperature / tau
    step = max(PIECE // batch.vocabulary, 1)
    pieces = [
        checkpoint(_dense_kl, student.rows, at, teacher[k : k + step], power, divergence, use_reentrant=False)
        for k, at in zip(range(0, len(student.at), step), torch.split(student.at, step), strict=True)
    ]
    return torch.cat(pieces)


def _dense_kl(rows: Tensor, at: Tensor, logprobs: Tensor, power: float, divergence: str) -> Tensor:
    log_p = (logprobs * power).log_softmax(1)
    log_q = rows[at, : logprobs.shape[1]].float().log_softmax(1)
    if divergence == "reverse_kl":
        log_p, log_q = log_q, log_p
    p = log_p.exp()
    return (p * _where_weighed(log_p - log_q, p)).sum(1)


class _Read(torch.autograd.Function):
    """Computes what the losses need from logits. Backward makes one gradient of their size, and nothing else as big."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, vocabulary: int, where: Tensor, token: Tensor, at: Tensor, label: Tensor
    ) -> tuple[Tensor, ...]:
        pieces = [piece[:, :vocabulary] for piece in torch.split(rows, max(PIECE // vocabulary, 1))]
        lse = torch.cat([piece.float().logsumexp(1) for piece in pieces])
        total = torch.cat([piece.sum(1, dtype=torch.float32) for piece in pieces])
        ctx.save_for_backward(rows, lse, where, token, at, label)
        ctx.vocabulary = vocabulary
        return lse, rows[where, token].float(), rows[at, label].float(), total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, lse, where, token, at, label = ctx.saved_tensors
        by_lse, by_entry, by_label, by_total = gradients
        gradient = torch.empty_like(rows)
        gradient[:, ctx.vocabulary :] = 0
        step = max(PIECE // ctx.vocabulary, 1)
        for k in range(0, len(rows), step):
            here = slice(k, k + step)
            q = (rows[here, : ctx.vocabulary].float() - lse[here, None]).exp_()
            gradient[here, : ctx.vocabulary] = q.mul_(by_lse[here, None]).add_(by_total[here, None])
        gradient.index_put_((where, token), by_entry.to(rows.dtype), accumulate=True)
        gradient.index_put_((at, label), by_label.to(rows.dtype), accumulate=True)
        return gradient, None, None, None, None, None


def _reduced(loss: Tensor, batch: TokenBatch, reduction: str) -> Tensor:
    if reduction not in ("mean", "none"):
        raise CacheError(f"there is no reduction {reduction!r}; there are mean and none")
    chosen = batch.loss.reshape(-1)
    loss = torch.where(chosen, loss, 0.0)
    return loss.view(batch.loss.shape) if reduction == "none" else loss.sum() / chosen.sum().clamp_min(1)
