"""Soft labels and losses: every label regularizer here is a variant of one formula.

    loss = (1 - alpha) * CE(z, y) + alpha * tau^2 * D(p_tau || softmax(z / tau))

z are the student's logits, y the true classes, tau the temperature. The soft labels p come from *soft logits*
s by p_tau = softmax(s / tau): a teacher's raw logits, or the logarithm of hand-made probabilities. KL sums
over the classes; the batch is averaged. `docs/adding-a-regularizer.md` has the same table with more words.

| params                          | soft labels p                            | source                   |
| ------------------------------- | ---------------------------------------- | ------------------------ |
| {}                              | none: plain cross-entropy                |                          |
| uniform                         | 1/K on every class                       | Szegedy et al. 2016      |
| uniform_others                  | 1/(K-1) on all but the true class        | code of Yuan et al. 2020 |
| uniform, divergence: reverse_kl | 1/K: the confidence penalty              | Pereyra et al. 2017      |
| designed (variant: paper)       | `correct` on the true class, rest spread | Yuan et al. 2020, eq. 9  |
| designed, variant: released     | softmax of those probabilities / tau     | code of Yuan et al. 2020 |
| teacher                         | a teacher's, from the logit cache        | Hinton et al. 2015       |
| self                            | the baseline student's own, same seed    | Yuan et al. 2020         |
| teacher/self, divergence: mse   | raw logits, compared without softmax     | Ba and Caruana 2014      |
| teacher/self, divergence: dkd   | the true class and the others apart      | Zhao et al. 2022         |

`alpha` and `temperature` may change linearly over the training steps (annealed KD); a loss then has to be told how far
training is.

With `unlabelled: use` a batch may hold rows without a label, which have the soft labels alone, at full weight:

    (1 - alpha) * CE + alpha * tau^2 * D   on rows with a label
    tau^2 * D                              on rows without one

and the batch is averaged over all its rows.

Losses are computed in float32 (float64 logits stay float64), also under autocast.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.errors import KdcacheError
from kdcache.params import Regularizer, Schedule

T = TypeVar("T")


class Loss(Protocol):
    """(logits [B, K], labels [L], soft logits [B, K] or None, progress of training 0..1 or None) -> scalar.

    L = B, or fewer where the last rows of the batch have no label (`unlabelled: use`).
    """

    def __call__(
        self, logits: Tensor, labels: Tensor, soft_logits: Tensor | None = None, progress: float | None = None
    ) -> Tensor: ...


# The same with all four arguments given, and a user's own loss, which has three.
Term = Callable[[Tensor, Tensor, Tensor | None, float | None], Tensor]
Own = Callable[[Tensor, Tensor, Tensor | None], Tensor]

CACHED = "cached logits"


class RegularizerError(KdcacheError):
    """A loss cannot be built from its parameters, or was given tensors that do not fit."""


def needs_logits(params: Regularizer) -> bool:
    """Whether the loss reads cached logits (soft labels of a teacher, or of the student itself)."""
    return params.soft_labels in ("teacher", "self")


def make_loss(params: Regularizer, classes: int, regression: bool = False) -> Loss:
    """The loss of a regularizer or distiller.

    Args:
        params: the regularizer as written in params.yaml.
        classes: K, the number of the student's outputs (1 for a regression).
        regression: labels are real numbers; CE becomes the mean squared error.

    Returns:
        A function of logits [B, K], labels [B] (int64 classes, or floats for a regression), the raw cached logits
        [B, K] or None, and the progress of training (0 at the first optimizer step, 1 at the last), which only a
        schedule of alpha or temperature needs. It returns the mean over the batch as a float32 scalar. With
        `unlabelled: use` labels may be [L] with L < B: the last B - L rows have none.

    Raises:
        RegularizerError: the regularizer is not defined for such a task, or `function` cannot be imported.
            The returned function raises it when shapes do not fit, or cached logits or the progress are missing.
    """
    _check_task(params, classes, regression)
    compute, partly = _choose(params, regression), params.unlabelled == "use"

    def loss(
        logits: Tensor, labels: Tensor, soft_logits: Tensor | None = None, progress: float | None = None
    ) -> Tensor:
        _check_batch(logits, labels, soft_logits, classes, partly)
        with torch.autocast(logits.device.type, enabled=False):
            soft = None if soft_logits is None else _full_precision(soft_logits.detach())
            return compute(_full_precision(logits), labels, soft, progress)

    return loss


# ---- soft labels: [B, K], each row sums to 1 ----


def uniform_soft_labels(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """1/K on every class (Szegedy et al. 2016, arXiv 1512.00567, section 7).

    Mixed with weight alpha, the true class keeps 1 - alpha + alpha/K: 0.95 at alpha 0.1 and K = 2.
    """
    return torch.full((len(labels), classes), 1 / classes, dtype=dtype, device=labels.device)


def uniform_others_soft_labels(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """1/(K-1) on every class but the true one (`loss_label_smoothing` in the code of Yuan et al. 2020).

    Mixed with weight alpha, the true class keeps 1 - alpha: 0.90 at alpha 0.1, whatever K.
    """
    return _spread(labels, classes, 0.0, dtype)


def designed_soft_labels(
    labels: Tensor, classes: int, correct: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """`correct` on the true class, (1-correct)/(K-1) on the others (TF-reg of Yuan et al. 2020)."""
    return _spread(labels, classes, correct, dtype)


def soften(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature), [B, K]; given log p, it is log of p^(1/temperature), normalised."""
    return F.log_softmax(logits / temperature, dim=-1)


def _spread(labels: Tensor, classes: int, correct: float, dtype: torch.dtype) -> Tensor:
    rest = (1 - correct) / (classes - 1)
    soft = torch.full((len(labels), classes), rest, dtype=dtype, device=labels.device)
    return soft.scatter_(1, labels.unsqueeze(1), correct)


# ---- divergences: a scalar, the mean over the batch ----


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label], mean over the batch."""
    return F.cross_entropy(logits, labels)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_k p_k (log p_k - log q_k), mean over the batch; p_k may be 0 (log p_k = -inf)."""
    return F.kl_div(log_q, log_p.exp(), reduction="batchmean")


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(q || p): soft labels p, student q. With uniform p it is log K - H(q), the confidence penalty."""
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def decoupled_kl(log_p: Tensor, log_q: Tensor, labels: Tensor, beta: float) -> Tensor:
    """TCKD + beta * NCKD (Zhao et al. 2022, arXiv 2203.08679, eq. 7): KL(p || q) with its two parts weighed apart.

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
    """log (p_t, 1 - p_t), [B, 2]: the others together have the logit log sum exp of theirs."""
    true = logits.gather(1, labels.unsqueeze(1))
    return soften(torch.cat([true, _others(logits, labels).logsumexp(1, keepdim=True)], 1), 1)


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, K-1]: every row without its true class (by gather: a boolean mask would wait for the GPU)."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(labels), -1)
    return logits.gather(1, columns + (columns >= labels.unsqueeze(1)))


def mse(logits: Tensor, soft_logits: Tensor) -> Tensor:
    """Mean over batch *and* classes of the squared difference of raw logits (Ba and Caruana 2014).

    There is no temperature in it: tau^2 * ((z - s) / tau)^2 is (z - s)^2. Half of it is the limit of
    tau^2 * KL for large tau when both logits are centred (Hinton et al. 2015, section 2.1).
    """
    return F.mse_loss(logits, soft_logits)


# ---- losses ----


def _choose(params: Regularizer, regression: bool) -> Term:
    if params.function is not None:
        return _checked(_load_function(params.function), params.function, needs_logits(params))
    hard = _squared_error if regression else cross_entropy
    if params.is_base:
        return lambda logits, labels, *_: hard(logits, labels)
    soft = _soft_term(params)

    def mixed(logits: Tensor, labels: Tensor, cached: Tensor | None, progress: float | None) -> Tensor:
        alpha, term = value_at(params.alpha, progress), soft(logits, labels, cached, progress)
        if alpha == 1:  # also spares a 0 * inf
            return term
        return (1 - alpha) * hard(logits, labels) + alpha * term

    return _on_labelled(mixed, soft) if params.unlabelled == "use" else mixed


def _on_labelled(labelled: Term, unlabelled: Term) -> Term:
    """One term on the first L rows of a batch, which have a label, and another on the rest; the mean over all rows."""

    def loss(logits: Tensor, labels: Tensor, cached: Tensor | None, progress: float | None) -> Tensor:
        known, rows = len(labels), len(logits)
        if known == rows:
            return labelled(logits, labels, cached, progress)
        soft = _given(cached, CACHED)
        rest = unlabelled(logits[known:], labels[:0], soft[known:], progress)
        if known == 0:
            return rest
        return (
            known * labelled(logits[:known], labels, soft[:known], progress) + (rows - known) * rest
        ) / rows

    return loss


def value_at(value: float | Schedule[float], progress: float | None) -> float:
    """The value of alpha or temperature at a progress of training from 0 (first step) to 1 (last)."""
    if not isinstance(value, Schedule):
        return value
    progress = _given(progress, "the progress of training, for its schedule")
    if not 0 <= progress <= 1:
        raise RegularizerError(f"the progress of training is from 0 to 1, found {progress}")
    return (1 - progress) * value.start + progress * value.end


def _soft_term(params: Regularizer) -> Term:
    """tau^2 * D(p_tau || softmax(z / tau)), without alpha."""
    if params.variant == "released":
        correct = _given(params.correct, "`correct`")
        return lambda logits, labels, _, progress: released_tf_reg(
            logits, labels, correct, value_at(params.temperature, progress), params.multiplier
        )
    if params.divergence == "mse":
        return lambda logits, _, cached, __: mse(logits, _given(cached, CACHED))
    divergence = _divergence(params)

    def term(logits: Tensor, labels: Tensor, cached: Tensor | None, progress: float | None) -> Tensor:
        tau = value_at(params.temperature, progress)
        soft_logits = _soft_logits(params, logits, labels, cached)
        return tau**2 * divergence(soften(soft_logits, tau), soften(logits, tau), labels)

    return term


def _divergence(params: Regularizer) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """D of log p_tau [B, K], the student's log-probabilities [B, K] and the labels [B]."""
    if params.divergence == "dkd":
        beta = _given(params.beta, "`beta`")
        return lambda log_p, log_q, labels: decoupled_kl(log_p, log_q, labels, beta)
    divergence = kl if params.divergence == "kl" else reverse_kl
    return lambda log_p, log_q, _: divergence(log_p, log_q)


def _soft_logits(params: Regularizer, logits: Tensor, labels: Tensor, cached: Tensor | None) -> Tensor:
    """The source's logits [B, K]: softmax of them, un-tempered, is p."""
    classes, dtype = logits.shape[1], logits.dtype
    if params.soft_labels == "uniform":
        return uniform_soft_labels(labels, classes, dtype).log()
    if params.soft_labels == "uniform_others":
        return uniform_others_soft_labels(labels, classes, dtype).log()
    if params.soft_labels == "designed":
        return designed_soft_labels(labels, classes, _given(params.correct, "`correct`"), dtype).log()
    return _given(cached, CACHED)


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


def _squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(logits.squeeze(1), labels.to(logits.dtype))


def _full_precision(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _given(value: T | None, what: str) -> T:
    if value is None:
        raise RegularizerError(f"this loss needs {what}, found none")
    return value


# ---- a user's own loss ----


def _load_function(path: str) -> Own:
    module_name, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except AttributeError:
        raise RegularizerError(f"function: {path}: the module {module_name} has no {name!r}") from None
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise RegularizerError(
            f"function: {path}: cannot import {module_name}: {type(error).__name__}: {error} "
            "(it must be importable from the folder that params.yaml is in, or be installed)"
        ) from error
    _check_signature(function, path)
    return function  # type: ignore[no-any-return]


def _check_signature(function: object, path: str) -> None:
    if not callable(function):
        raise RegularizerError(f"function: {path}: expected a function, found {type(function).__name__}")
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError as error:
        raise RegularizerError(
            f"function: {path}: must take three arguments (logits, labels, soft_logits): {error}"
        ) from None
    except ValueError:  # a builtin without a signature: the first call will tell
        return


def _checked(function: Own, path: str, cached: bool) -> Term:
    def loss(logits: Tensor, labels: Tensor, soft_logits: Tensor | None, _: float | None) -> Tensor:
        value = function(logits, labels, _given(soft_logits, CACHED) if cached else None)
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise RegularizerError(f"function: {path}: expected a scalar tensor, found {found}")
        if logits.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
            raise RegularizerError(
                f"function: {path}: its result does not depend on the logits (no gradient)"
            )
        return value

    return loss


# ---- checks ----


def _check_task(params: Regularizer, classes: int, regression: bool) -> None:
    if regression:
        if classes != 1:
            raise RegularizerError(f"a regression has one output, found {classes}")
        if not (params.is_base or params.function or params.divergence == "mse"):
            raise RegularizerError(
                f"soft_labels: {params.soft_labels} with divergence: {params.divergence} is not defined "
                "for a regression; use base, or teacher/self with divergence: mse"
            )
    elif classes < 2:
        raise RegularizerError(f"a classification needs at least 2 classes, found {classes}")


def _check_batch(
    logits: Tensor, labels: Tensor, soft_logits: Tensor | None, classes: int, partly: bool
) -> None:
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise RegularizerError(f"expected logits of shape [B, {classes}], found {list(logits.shape)}")
    if labels.ndim != 1 or len(labels) > len(logits) or (len(labels) < len(logits) and not partly):
        expected = f"{'at most ' if partly else ''}{len(logits)} labels"
        raise RegularizerError(f"expected {expected}, found shape {list(labels.shape)}")
    if soft_logits is not None and soft_logits.shape != logits.shape:
        raise RegularizerError(
            f"the cached logits have shape {list(soft_logits.shape)}, the student's {list(logits.shape)}: "
            "they belong to another task or batch"
        )
