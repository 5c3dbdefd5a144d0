"""The loss of knowledge distillation, for your own training loop: the same loss as a study's `kd`."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kdcache.study import Regularizer
from kdcache.training.regularizers import Loss, RegularizerError, make_loss

IGNORED = -100  # the label that torch's cross-entropy leaves out


def kd_loss(
    student_logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """(1 - alpha) CE(z, y) + alpha tau^2 KL(softmax(s / tau) || softmax(z / tau)), the mean over the batch.

    This is the loss of `{soft_labels: teacher, alpha: ..., temperature: ...}` in params.yaml (Hinton et al. 2015).
    `kdcache.training.regularizers` has variants; for a language model's tokens use `kdcache.kd_token_loss`.

    Args:
        student_logits: z [B, K].
        labels: y, int64 [B], the true classes. A row with the label -100 has no CE: the CE is then the mean over the
            other rows (0 if there are none), but the KL is the mean over all rows. For rows without a label there is
            `make_loss(Regularizer(..., unlabelled="use"), classes)`.
        teacher_logits: s [B, K], raw and un-tempered, as in a logit cache. They get no gradient.
        alpha: the weight of the distillation term, from 0 (plain cross-entropy) to 1 (the labels do not count).
        temperature: tau, above 0.

    Returns:
        A scalar, float32 (float64 for float64 logits), also under autocast.

    Raises:
        KdcacheError: the shapes do not fit, or alpha or temperature is out of range, or is to get a gradient.
    """
    if student_logits.ndim != 2:
        raise RegularizerError(f"expected student logits [B, K], found shape {list(student_logits.shape)}")
    share, tau = _number("alpha", alpha), _number("temperature", temperature)
    loss = _loss(student_logits.shape[1], share, tau)
    none = (labels == IGNORED).all()
    if labels.device.type == "cpu" and not none:  # asking a GPU would make it wait
        return loss(student_logits, labels, teacher_logits)
    # The CE of no rows is NaN. With labels that do not count, it is set to 0.
    some = torch.where(none, 0, labels)
    hard, soft = (
        _loss(student_logits.shape[1], a, tau)(student_logits, some, teacher_logits) for a in (0.0, 1.0)
    )
    return (1 - share) * torch.where(none, 0, hard) + share * soft


def _number(name: str, value: float | Tensor) -> float:
    """A number, also from a tensor that a schedule changes: the cache of losses below goes by values."""
    if getattr(value, "requires_grad", False):
        raise RegularizerError(f"{name} gets no gradient; give it as a number")
    return float(value)


@lru_cache(maxsize=64)
def _loss(classes: int, alpha: float, temperature: float) -> Loss:
    if not 0 <= alpha <= 1:
        raise RegularizerError(f"alpha is a share from 0 to 1, found {alpha}")
    if not 0 < temperature < float("inf"):
        raise RegularizerError(f"the temperature is a number above 0, found {temperature}")
    if alpha == 0:
        return make_loss(Regularizer(), classes)
    return make_loss(Regularizer(soft_labels="teacher", alpha=alpha, temperature=temperature), classes)
