"""Soft labels without a teacher, and softening by temperature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
