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

`alpha` and `temperature` may change linearly over the training steps (annealed KD); the loss then needs the progress of
training.

With `unlabelled: use` a batch may have rows without a label, which learn from the soft labels alone, at full weight:

    (1 - alpha) * CE + alpha * tau^2 * D   on rows with a label
    tau^2 * D                              on rows without one

and the batch is averaged over all its rows.

Losses are computed in float32 (float64 logits stay float64), also under autocast.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from kdcache.errors import KdcacheError
from kdcache.study import Regularizer, Schedule
from kdcache.training.divergences import (
    cross_entropy,
    decoupled_kl,
    full_precision,
    kl,
    mse,
    released_tf_reg,
    reverse_kl,
    squared_error,
    weighted_cross_entropy,
)
from kdcache.training.soft_labels import (
    designed_soft_labels,
    soften,
    uniform_others_soft_labels,
    uniform_soft_labels,
)

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
Hard = Callable[[Tensor, Tensor], Tensor]  # of logits and labels alone
CACHED = "cached logits"


class RegularizerError(KdcacheError):
    """A loss cannot be made from its parameters, or was called with tensors that do not fit."""


def needs_logits(params: Regularizer) -> bool:
    """Whether the loss reads cached logits (soft labels of a teacher, or of the student itself)."""
    return params.soft_labels in ("teacher", "self")


def make_loss(
    params: Regularizer,
    classes: int,
    regression: bool = False,
    class_weights: Sequence[float] | None = None,
) -> Loss:
    """The loss of a regularizer or distiller.

    Args:
        params: the regularizer as written in params.yaml.
        classes: K, the number of the student's outputs (1 for a regression).
        regression: labels are real numbers; CE becomes the mean squared error.
        class_weights: one for each class; a row's CE is multiplied by its class's weight, D is not.

    Returns:
        A function of logits [B, K], labels [B] (int64 classes, or floats for a regression), the raw cached logits
        [B, K] or None, and the progress of training (0 at the first optimizer step, 1 at the last), which only a
        schedule of alpha or temperature needs. It returns the mean over the batch as a float32 scalar. With
        `unlabelled: use` labels may be [L] with L < B: the last B - L rows have none.

    Raises:
        RegularizerError: the regularizer is not defined for such a task, the weights do not fit it, or `function`
            cannot be imported.
            The returned function raises it when shapes do not fit, or cached logits or the progress are missing.
    """
    _check_task(params, classes, regression)
    hard: Hard = squared_error if regression else cross_entropy
    if class_weights is not None:
        _check_weights(params, classes, regression, class_weights)
        hard = _weighted(class_weights)
    compute, partly = _choose(params, hard), params.unlabelled == "use"

    def loss(
        logits: Tensor, labels: Tensor, soft_logits: Tensor | None = None, progress: float | None = None
    ) -> Tensor:
        _check_batch(logits, labels, soft_logits, classes, partly)
        with torch.autocast(logits.device.type, enabled=False):
            soft = None if soft_logits is None else full_precision(soft_logits.detach())
            return compute(full_precision(logits), labels, soft, progress)

    return loss


def _choose(params: Regularizer, hard: Hard) -> Term:
    if params.function is not None:
        return _checked(_load_function(params.function), params.function, needs_logits(params))
    if params.is_base:
        return lambda logits, labels, *_: hard(logits, labels)
    soft = _soft_term(params)

    def mixed(logits: Tensor, labels: Tensor, cached: Tensor | None, progress: float | None) -> Tensor:
        alpha, term = value_at(params.alpha, progress), soft(logits, labels, cached, progress)
        if alpha == 1:  # also spares a 0 * inf
            return term
        return (1 - alpha) * hard(logits, labels) + alpha * term

    return _on_labelled(mixed, soft) if params.unlabelled == "use" else mixed


def _weighted(class_weights: Sequence[float]) -> Hard:
    weights = torch.tensor(class_weights)
    there: dict[torch.device, Tensor] = {}  # sent once

    def hard(logits: Tensor, labels: Tensor) -> Tensor:
        if logits.device not in there:
            there[logits.device] = weights.to(logits.device)
        return weighted_cross_entropy(logits, labels, there[logits.device])

    return hard


def _on_labelled(labelled: Term, unlabelled: Term) -> Term:
    """One term for the first L rows of a batch, which have a label, another for the rest; the mean over all rows."""

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


def _given(value: T | None, what: str) -> T:
    if value is None:
        raise RegularizerError(f"this loss needs {what}, found none")
    return value


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


def _check_weights(
    params: Regularizer, classes: int, regression: bool, class_weights: Sequence[float]
) -> None:
    if regression or params.function is not None:
        what = "a regression has no classes" if regression else "a function of your own weighs them itself"
        raise RegularizerError(f"class_weights have no effect: {what}")
    if len(class_weights) != classes:
        raise RegularizerError(
            f"class_weights: expected one for each of {classes} classes, found {len(class_weights)}"
        )


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
