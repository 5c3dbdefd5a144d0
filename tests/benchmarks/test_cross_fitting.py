"""The correction is the first-order term of the loss, and the page says what the trials are."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from benchmarks.cross_fitting import STUDENTS, correction, kd, page


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_the_correction_is_the_first_order_term(tau: float) -> None:
    """(y - p) times the gradient in p of the tempered cross-entropy, by autograd in float64."""
    torch.manual_seed(0)
    student, teacher = (torch.randn(6, 5, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    p = teacher.softmax(1).requires_grad_()
    w = (p.log() / tau).softmax(1)
    (gradient,) = torch.autograd.grad(-(w * (student / tau).log_softmax(1)).sum(), p)
    expected = ((F.one_hot(labels, 5) - p) * gradient).sum(1).mean()
    found = correction(student, labels, teacher, tau, limit=1e-9)
    torch.testing.assert_close(found, expected.detach())


def test_at_temperature_one_the_corrected_loss_is_cross_entropy() -> None:
    torch.manual_seed(1)
    student, teacher = (torch.randn(8, 3, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, 3, (8,))
    against = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    corrected = against + correction(student, labels, teacher, 1.0, limit=1e-9)
    torch.testing.assert_close(corrected, F.cross_entropy(student, labels))


def test_alpha_weighs_the_terms() -> None:
    torch.manual_seed(2)
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    half, none = (kd(alpha, corrected=True)(student, labels, teacher, 0.0) for alpha in (0.5, 0.0))
    whole = kd(1.0, corrected=True)(student, labels, teacher, 0.0)
    torch.testing.assert_close(none, F.cross_entropy(student, labels))
    torch.testing.assert_close(half, (none + whole) / 2)


def trial(student: str, method: str, seed: int, accuracy: float) -> dict[str, Any]:
    return {
        "student": student,
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        "nll": 0.5,
        "entropy": 0.1,
    }


def test_the_page_has_paired_differences() -> None:
    trials = [trial("plain", "teacher", 0, 99.0), trial("cross", "teacher", 0, 79.5)]
    for student in STUDENTS:
        for seed, base in enumerate((70.0, 72.0, 74.0)):
            trials += [trial(student, "base", seed, base), trial(student, "kd 0.5", seed, base + 1 + seed)]
    written = page(pd.DataFrame(trials))
    assert "plain: 99.0% right" in written
    assert "cross: 79.5% right" in written
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t of 2 degrees of freedom 4.3027
    assert written.count("+2.00 [-0.48, 4.48]") == len(STUDENTS)
