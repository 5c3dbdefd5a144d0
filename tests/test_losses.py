"""`kdcache.kd_loss`: numbers by hand, the study's own loss, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import kdcache
from kdcache.study import Regularizer
from kdcache.training.regularizers import make_loss


def test_a_number_by_hand() -> None:
    """z = (ln 9, 0) is (9/10, 1/10), and (3/4, 1/4) at tau 2; the teacher is undecided."""
    student, teacher = torch.tensor([[math.log(9), 0.0]]), torch.zeros(1, 2)
    found = kdcache.kd_loss(student, torch.tensor([0]), teacher, alpha=0.5, temperature=2)
    ce, kl = -math.log(0.9), 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(found) == pytest.approx(0.5 * ce + 0.5 * 4 * kl)


def test_it_is_the_studys_loss_and_reaches_the_student_alone() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    labels = torch.randint(0, 5, (7,))
    study = make_loss(Regularizer(soft_labels="teacher", alpha=0.3, temperature=4), classes=5)
    found = kdcache.kd_loss(student, labels, teacher, alpha=0.3, temperature=4)
    assert torch.equal(found, study(student, labels, teacher))
    found.backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_without_a_share_it_is_cross_entropy() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    assert torch.equal(
        kdcache.kd_loss(logits, labels, torch.randn(4, 3), alpha=0), F.cross_entropy(logits, labels)
    )


def test_a_row_with_the_label_minus_100_has_a_kl_and_no_cross_entropy() -> None:
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, -100, 2, -100])
    ce = F.cross_entropy(student[[0, 2]], labels[[0, 2]])
    kl = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    torch.testing.assert_close(kdcache.kd_loss(student, labels, teacher, alpha=0.5), 0.5 * ce + 0.5 * kl)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_batch_without_any_label_has_a_kl_alone(alpha: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    kl = 4 * F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean")
    found = kdcache.kd_loss(student, torch.full((4,), -100), teacher, alpha=alpha, temperature=2)
    torch.testing.assert_close(found, alpha * kl)
    (gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(gradient, alpha * torch.autograd.grad(kl, student)[0])


def test_a_tensor_that_a_schedule_changes_counts_with_its_value() -> None:
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    alpha, temperature = torch.tensor(0.5), torch.tensor(2.0)
    kdcache.kd_loss(student, labels, teacher, alpha=alpha, temperature=temperature)
    alpha.fill_(0.875)
    temperature.fill_(4.0)
    found = kdcache.kd_loss(student, labels, teacher, alpha=alpha, temperature=temperature)
    assert torch.equal(found, kdcache.kd_loss(student, labels, teacher, alpha=0.875, temperature=4.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.5}, r"alpha is a share from 0 to 1, found 1\.5"),
        ({"alpha": float("nan")}, "alpha is a share from 0 to 1, found nan"),
        ({"temperature": 0}, "temperature is a number above 0, found 0"),
        (
            {"temperature": torch.nn.Parameter(torch.tensor(2.0))},
            "temperature gets no gradient; give it as a number",
        ),
        ({"temperature": float("inf")}, "temperature is a number above 0, found inf"),
        ({"teacher_logits": torch.zeros(3, 3)}, r"cached logits have shape \[3, 3\]"),
        ({"teacher_logits": None}, "needs cached logits, found none"),
        ({"labels": torch.zeros(2, dtype=torch.long)}, "expected 4 labels"),
        ({"student_logits": torch.zeros(3)}, r"expected student logits \[B, K\]"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    fitting = {
        "student_logits": torch.zeros(4, 3),
        "labels": torch.tensor([0, 2, 1, 1]),
        "teacher_logits": torch.zeros(4, 3),
    }
    with pytest.raises(kdcache.KdcacheError, match=message):
        kdcache.kd_loss(**{**fitting, **change})
