"""Divergences between soft labels and a student's output: KL, reverse KL, decoupled KL, squared error."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.training.soft_labels import designed_soft_labels, soften


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label], mean over the batch."""
    return F.cross_entropy(logits, labels)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """-w[label] log softmax(logits)[label], mean over the batch, from a weight for each class, [K].

    torch's `cross_entropy(weight=)` divides by the sum of the batch's weights instead. The losses of a batch's parts
    would then not add up to that of the batch.
    """
    return (weights[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_k p_k (log p_k - log q_k), mean over the batch; p_k may be 0 (log p_k = -inf)."""
    return F.kl_div(log_q, log_p.exp(), reduction="batchmean")


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(q || p): soft labels p, student q. With uniform p it is log K - H(q), the confidence penalty."""
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def decoupled_kl(log_p: Tensor, log_q: Tensor, labels: Tensor, beta: float) -> Tensor:
    """TCKD + beta * NCKD (Zhao et al. 2022, arXiv 2203.08679, eq. 7): KL(p || q), its parts weighed apart.

    TCKD is the KL between (p_t, 1 - p_t) and (q_t, 1 - q_t), t the true class: how hard the row is. NCKD is the KL
    between p and q over the K - 1 other classes, each scaled to the sum 1. KL(p || q) = TCKD + (1 - p_t) * NCKD, so a
    sure teacher hardly teaches NCKD; here its weight is beta, whatever p_t. With K = 2 there is one other class: NCKD
    is 0, and what is left is KL(p || q), plain KD.

    The paper minimises CE + a * tau^2 * TCKD + b * tau^2 * NCKD. Its code (github.com/megvii-research/mdistiller) has
    a = 1 and, on CIFAR-100, tau = 4 and b = 8 by default, 2 or 6 for some pairs; on ImageNet tau = 1 and b = 0.5; the
    weight of both rises over the first epochs. (1 - alpha) * CE + alpha * tau^2 * (TCKD + beta * NCKD) is 1 - alpha
    times that with a = alpha / (1 - alpha) and b = beta * a: `alpha: 0.5, beta: 8, temperature: 4` is half of the
    default, without the rise.

    Args:
        log_p, log_q: [B, K] log-probabilities, or logits: a constant added to a row changes nothing.
        labels: [B] true classes.
    """
    tckd = kl(_true_or_not(log_p, labels), _true_or_not(log_q, labels))
    nckd = kl(soften(_others(log_p, labels), 1), soften(_others(log_q, labels), 1))
    return tckd + beta * nckd


def _true_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """log (p_t, 1 - p_t), [B, 2]: the logit of all other classes together is the logsumexp of theirs."""
    true = logits.gather(1, labels.unsqueeze(1))
    return soften(torch.cat([true, _others(logits, labels).logsumexp(1, keepdim=True)], 1), 1)


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, K-1]: every row without its true class (by gather: a boolean mask would wait for the GPU)."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(labels), -1)
    return logits.gather(1, columns + (columns >= labels.unsqueeze(1)))


def mse(logits: Tensor, soft_logits: Tensor) -> Tensor:
    """Mean over batch *and* classes of the squared difference of raw logits (Ba and Caruana 2014).

    It has no temperature: tau^2 * ((z - s) / tau)^2 is (z - s)^2. Half of it is the limit of
    tau^2 * KL for large tau when both logits are centred (Hinton et al. 2015, section 2.1).
    """
    return F.mse_loss(logits, soft_logits)


def released_tf_reg(
    logits: Tensor, labels: Tensor, correct: float, temperature: float, multiplier: float
) -> Tensor:
    """multiplier / K * KL(softmax(p^d / T) || softmax(z)): `loss_kd_regularization` of Yuan et al.'s code.

    (github.com/yuanli2333/Teacher-free-Knowledge-Distillation, my_loss_function.py.) It differs from eq. 9 of
    their paper in four ways: the *probabilities* p^d are softened (0.512 on the true class at K = 2, T = 20
    and correct 0.99, where softmax(log p^d / T) gives 0.557); the student is not tempered; there is no T^2;
    `nn.KLDivLoss()` averages over batch and classes, so a multiplier of K makes it a mean over the batch.
    """
    classes = logits.shape[1]
    target = soften(designed_soft_labels(labels, classes, correct, logits.dtype), temperature)
    return multiplier / classes * kl(target, soften(logits, 1.0))


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(logits.squeeze(1), labels.to(logits.dtype))


def full_precision(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
