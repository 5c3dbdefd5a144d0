"""Losses against numbers computed by hand, against an obvious slow version, and against torch's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcache.study import Regularizer, Schedule
from kdcache.training.divergences import decoupled_kl, kl, mse, released_tf_reg, reverse_kl
from kdcache.training.regularizers import RegularizerError, make_loss, needs_logits, value_at
from kdcache.training.soft_labels import (
    designed_soft_labels,
    soften,
    uniform_others_soft_labels,
    uniform_soft_labels,
)

ln = math.log


def value(
    params: dict[str, Any],
    logits: list[float],
    label: int,
    cached: list[float] | None = None,
    progress: float | None = None,
) -> float:
    """The loss of one row."""
    loss = make_loss(Regularizer(**params), len(logits))
    soft = None if cached is None else torch.tensor([cached])
    return float(loss(torch.tensor([logits]), torch.tensor([label]), soft, progress))


# ---- hand-computed numbers ----
# K = 2: z = (ln 3, 0) gives p = (3/4, 1/4), z = (ln 9, 0) gives (9/10, 1/10) and, at tau 2, (3/4, 1/4).
# K = 5: z = (ln 4, 0, 0, 0, 0) gives p = (1/2, 1/8, ...), z = (ln 16, 0, ...) gives (4/5, 1/20, ...)
#        and, at tau 2, (1/2, 1/8, ...).
TWO, TWO_HOT = [ln(3), 0.0], [ln(9), 0.0]
FIVE, FIVE_HOT = [ln(4), 0.0, 0.0, 0.0, 0.0], [ln(16), 0.0, 0.0, 0.0, 0.0]
SMOOTH = {"soft_labels": "uniform", "alpha": 0.1}
OTHERS = {"soft_labels": "uniform_others", "alpha": 0.1}


def test_base_two_classes() -> None:
    assert value({}, TWO, 0) == pytest.approx(0.287682, abs=1e-6)  # -ln 3/4
    assert value({}, TWO, 1) == pytest.approx(1.386294, abs=1e-6)  # -ln 1/4


def test_base_five_classes() -> None:
    assert value({}, FIVE, 0) == pytest.approx(0.693147, abs=1e-6)  # -ln 1/2
    assert value({}, FIVE, 3) == pytest.approx(2.079442, abs=1e-6)  # -ln 1/8


def test_uniform_two_classes() -> None:
    # KL(u||p) = 1/2 ln(1/2 / 3/4) + 1/2 ln(1/2 / 1/4) = (-0.405465 + 0.693147) / 2 = 0.143841
    # 0.9 * 0.287682 + 0.1 * 0.143841 = 0.273298
    assert value(SMOOTH, TWO, 0) == pytest.approx(0.273298, abs=1e-6)


def test_uniform_five_classes() -> None:
    # KL = 0.2 ln(0.2 / 0.5) + 0.8 ln(0.2 / 0.125) = -0.183258 + 0.376003 = 0.192745
    # 0.9 * 0.693147 + 0.1 * 0.192745 = 0.643107
    assert value(SMOOTH, FIVE, 0) == pytest.approx(0.643107, abs=1e-6)


def test_uniform_others_two_classes() -> None:
    # The other class has everything: KL = -ln 1/4 = 1.386294;  0.9 * 0.287682 + 0.1 * 1.386294 = 0.397543
    assert value(OTHERS, TWO, 0) == pytest.approx(0.397543, abs=1e-6)


def test_uniform_others_five_classes() -> None:
    # KL = 4 * 1/4 ln(1/4 / 1/8) = ln 2, and CE = ln 2 too
    assert value(OTHERS, FIVE, 0) == pytest.approx(0.693147, abs=1e-6)
    # True class 1: soft labels (1/4, 0, 1/4, 1/4, 1/4): KL = 1/4 ln(1/2) + 3/4 ln 2 = 1/2 ln 2 = 0.346574
    # CE = ln 8;  0.9 * 2.079442 + 0.1 * 0.346574 = 1.906155
    assert value(OTHERS, FIVE, 1) == pytest.approx(1.906155, abs=1e-6)


def test_confidence_penalty_two_classes() -> None:
    # KL(p||u) = 3/4 ln(3/4 / 1/2) + 1/4 ln(1/4 / 1/2) = 0.304099 - 0.173287 = 0.130812 (= ln 2 - H(p))
    # 0.9 * 0.287682 + 0.1 * 0.130812 = 0.271995
    assert value({**SMOOTH, "divergence": "reverse_kl"}, TWO, 0) == pytest.approx(0.271995, abs=1e-6)


def test_designed_as_in_the_paper_two_classes() -> None:
    # p^d = (0.8, 0.2); at tau 2 proportional to (sqrt 4, 1): (2/3, 1/3).
    # KL = 2/3 ln(2/3 / 3/4) + 1/3 ln(1/3 / 1/4) = -0.078522 + 0.095894 = 0.017372;  tau^2 KL = 0.069488
    # CE = -ln 0.9 = 0.105361;  0.5 * 0.105361 + 0.5 * 0.069488 = 0.087424
    params = {"soft_labels": "designed", "correct": 0.8, "alpha": 0.5, "temperature": 2}
    assert value(params, TWO_HOT, 0) == pytest.approx(0.087424, abs=1e-6)


def test_designed_as_in_the_paper_five_classes() -> None:
    # p^d = (1/2, 1/8, ...); at tau 2 proportional to (2, 1, 1, 1, 1): (1/3, 1/6, ...).
    # KL = 1/3 ln(1/3 / 1/2) + 4/6 ln(1/6 / 1/8) = -0.135155 + 0.191788 = 0.056633;  tau^2 KL = 0.226532
    # CE = -ln 4/5 = 0.223144;  0.75 * 0.223144 + 0.25 * 0.226532 = 0.223991
    params = {"soft_labels": "designed", "correct": 0.5, "alpha": 0.25, "temperature": 2}
    assert value(params, FIVE_HOT, 0) == pytest.approx(0.223991, abs=1e-6)


RELEASED = {"soft_labels": "designed", "variant": "released"}


def test_designed_as_released_two_classes() -> None:
    # softmax((0.99, 0.01) / 20): 1 / (1 + e^-0.049) = 0.512248 on the true class.
    # KL = 0.512248 ln(0.512248 / 0.75) + 0.487752 ln(0.487752 / 0.25) = -0.195302 + 0.325988 = 0.130686
    # Mean over 2 classes: 0.065343.  0.5 * 0.287682 + 0.5 * 0.065343 = 0.176512 (no tau^2, z as it is)
    params = {**RELEASED, "correct": 0.99, "alpha": 0.5, "temperature": 20}
    assert value(params, TWO, 0) == pytest.approx(0.176512, abs=1e-6)
    # multiplier 2 undoes the mean: 0.5 * 0.287682 + 0.5 * 0.130686 = 0.209184
    assert value({**params, "multiplier": 2}, TWO, 0) == pytest.approx(0.209184, abs=1e-6)


def test_designed_as_released_five_classes() -> None:
    # softmax((0.6, 0.1, ...) / 0.5): e^1 / (e^1 + 4) = 0.404610 on the true class, 0.148848 on the others.
    # KL = 0.404610 ln(0.404610 / 0.5) + 0.595390 ln(0.148848 / 0.125) = -0.085649 + 0.103966 = 0.018317
    # Multiplier 5 undoes the mean over classes.  0.9 * 0.693147 + 0.1 * 0.018317 = 0.625664
    params = {**RELEASED, "correct": 0.6, "alpha": 0.1, "temperature": 0.5, "multiplier": 5}
    assert value(params, FIVE, 0) == pytest.approx(0.625664, abs=1e-6)


@pytest.mark.parametrize("source", ["teacher", "self"])
def test_distillation_two_classes(source: str) -> None:
    # The teacher's (ln 4, 0) at tau 2 is (2/3, 1/3); the student is (3/4, 1/4): tau^2 KL = 0.069488 as above.
    # 0.7 * 0.105361 + 0.3 * 0.069488 = 0.094599
    params = {"soft_labels": source, "alpha": 0.3, "temperature": 2}
    assert value(params, TWO_HOT, 0, [ln(4), 0.0]) == pytest.approx(0.094599, abs=1e-6)


def test_distillation_five_classes() -> None:
    # The teacher's (ln 4, 0, ...) at tau 2 is (1/3, 1/6, ...): tau^2 KL = 0.226532 as above. Alpha 1: no CE.
    params = {"soft_labels": "teacher", "alpha": 1.0, "temperature": 2}
    assert value(params, FIVE_HOT, 0, FIVE) == pytest.approx(0.226532, abs=1e-6)
    assert value(params, FIVE_HOT, 4, FIVE) == pytest.approx(0.226532, abs=1e-6)


def test_distillation_with_reverse_kl_two_classes() -> None:
    # KL(q||p) = 3/4 ln(3/4 / 2/3) + 1/4 ln(1/4 / 1/3) = 0.088337 - 0.071921 = 0.016417;  times 4: 0.065667
    params = {"soft_labels": "teacher", "alpha": 1.0, "temperature": 2, "divergence": "reverse_kl"}
    assert value(params, TWO_HOT, 0, [ln(4), 0.0]) == pytest.approx(0.065667, abs=1e-6)


def test_distillation_with_reverse_kl_five_classes() -> None:
    # KL(q||p) = 1/2 ln(1/2 / 1/3) + 4/8 ln(1/8 / 1/6) = 0.202733 - 0.143841 = 0.058892;  times 4: 0.235566
    params = {"soft_labels": "teacher", "alpha": 1.0, "temperature": 2, "divergence": "reverse_kl"}
    assert value(params, FIVE_HOT, 0, FIVE) == pytest.approx(0.235566, abs=1e-6)


def test_distillation_with_mse() -> None:
    params = {"soft_labels": "teacher", "alpha": 1.0, "divergence": "mse"}
    assert value(params, [1.0, 3.0], 0, [2.0, 1.0]) == pytest.approx(2.5)  # (1 + 4) / 2
    assert value(params, [1.0, 0.0, 0.0, 0.0, 2.0], 0, [0.0] * 5) == pytest.approx(1.0)  # (1 + 4) / 5
    # alpha 0.5 with p = (3/4, 1/4): 0.5 * 0.287682 + 0.5 * (ln 3)^2 / 2 = 0.143841 + 0.301737 = 0.445578
    assert value({**params, "alpha": 0.5}, TWO, 0, [0.0, 0.0]) == pytest.approx(0.445578, abs=1e-6)


DKD = {"soft_labels": "teacher", "divergence": "dkd", "alpha": 1.0, "temperature": 2}


def test_decoupled_two_classes() -> None:
    # One class is not true, so NCKD is 0 and KL is TCKD: as KD above, whatever beta.
    for beta in (0, 1, 8):
        params = {**DKD, "alpha": 0.3, "beta": beta}
        assert value(params, TWO_HOT, 0, [ln(4), 0.0]) == pytest.approx(0.094599, abs=1e-6)


def test_decoupled_five_classes() -> None:
    # At tau 2 the teacher is (1/3, 1/6, 1/6, 1/6, 1/6), the student (1/2, 1/8, 1/8, 1/8, 1/8).
    # True class 0: the others are uniform on both sides, so NCKD is 0 and TCKD the KL above, 0.056633;  times 4.
    assert value({**DKD, "beta": 8}, FIVE_HOT, 0, FIVE) == pytest.approx(0.226532, abs=1e-6)
    # True class 4: TCKD = 1/6 ln(1/6 / 1/8) + 5/6 ln(5/6 / 7/8) = 0.047947 - 0.040658 = 0.007289
    assert value({**DKD, "beta": 0}, FIVE_HOT, 4, FIVE) == pytest.approx(4 * 0.007289, abs=4e-6)
    # Others (2/5, 1/5, 1/5, 1/5) and (4/7, 1/7, 1/7, 1/7):
    # NCKD = 2/5 ln(7/10) + 3/5 ln(7/5) = -0.142670 + 0.201883 = 0.059213
    # TCKD + 8 NCKD = 0.480995;  times 4: 1.923980.  CE = ln 20 = 2.995732;  half of both: 2.459856
    assert value({**DKD, "alpha": 0.5, "beta": 8}, FIVE_HOT, 4, FIVE) == pytest.approx(2.459856, abs=4e-6)
    # With the weight 1 - p_t = 5/6 it is KD: 0.007289 + 5/6 * 0.059213 = 0.056633
    assert value({**DKD, "beta": 5 / 6}, FIVE_HOT, 4, FIVE) == pytest.approx(0.226532, abs=1e-6)


def test_annealed() -> None:
    # KD of two classes above: CE 0.105361, tau^2 KL 0.069488. Alpha 0.9, 0.6, 0.3.
    params = {"soft_labels": "teacher", "alpha": {"start": 0.9, "end": 0.3}, "temperature": 2}
    for progress, expected in ((0.0, 0.073075), (0.5, 0.083837), (1.0, 0.094599)):
        found = value(params, TWO_HOT, 0, [ln(4), 0.0], progress)
        assert found == pytest.approx(expected, abs=1e-6)
    # The temperature from 2 to 1: teacher (4/5, 1/5), student (9/10, 1/10), alpha 1:
    # KL = 4/5 ln(8/9) + 1/5 ln 2 = -0.094226 + 0.138629 = 0.044403
    params = {"soft_labels": "teacher", "alpha": 1, "temperature": {"start": 2, "end": 1}}
    assert value(params, TWO_HOT, 0, [ln(4), 0.0], 0.0) == pytest.approx(0.069488, abs=1e-6)
    assert value(params, TWO_HOT, 0, [ln(4), 0.0], 1.0) == pytest.approx(0.044403, abs=1e-6)


def test_alpha_may_end_at_nothing_but_cross_entropy_or_start_without_it() -> None:
    params = {"soft_labels": "teacher", "alpha": {"start": 1.0, "end": 0.0}, "temperature": 2}
    assert value(params, TWO_HOT, 0, [ln(4), 0.0], 0.0) == pytest.approx(0.069488, abs=1e-6)
    assert value(params, TWO_HOT, 0, [ln(4), 0.0], 1.0) == pytest.approx(0.105361, abs=1e-6)


def test_a_schedule_goes_in_a_straight_line_from_start_to_end() -> None:
    alpha = Regularizer(soft_labels="teacher", alpha={"start": 1.0, "end": 0.2}).alpha
    found = [value_at(alpha, progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([1.0, 0.8, 0.6, 0.2])
    assert (found[0], found[-1]) == (1.0, 0.2)
    assert value_at(0.3, None) == 0.3


def test_a_schedule_needs_the_progress_of_training_and_nothing_else_does() -> None:
    params = {"soft_labels": "teacher", "alpha": {"start": 1.0, "end": 0.0}}
    with pytest.raises(
        RegularizerError, match="needs the progress of training, for its schedule, found none"
    ):
        value(params, TWO, 0, TWO_HOT)
    for progress in (-0.1, 1.5):
        with pytest.raises(RegularizerError, match=f"progress of training is from 0 to 1, found {progress}"):
            value(params, TWO, 0, TWO_HOT, progress)
    constant = {"soft_labels": "teacher", "alpha": 0.5}
    assert value(constant, TWO, 0, TWO_HOT) == value(constant, TWO, 0, TWO_HOT, 0.7)


def test_the_batch_is_averaged() -> None:
    loss = make_loss(Regularizer(soft_labels="uniform", alpha=0.1), 2)
    both = float(loss(torch.tensor([TWO, TWO_HOT]), torch.tensor([0, 1]), None))
    assert both == pytest.approx((value(SMOOTH, TWO, 0) + value(SMOOTH, TWO_HOT, 1)) / 2)


def test_regression() -> None:
    logits, labels, cached = (
        torch.tensor([[1.0], [3.0]]),
        torch.tensor([2.0, 3.0]),
        torch.tensor([[0.0], [5.0]]),
    )
    base = make_loss(Regularizer(), 1, regression=True)
    assert float(base(logits, labels, None)) == pytest.approx(0.5)  # (1 + 0) / 2
    params = Regularizer(soft_labels="teacher", alpha=0.4, divergence="mse")
    # 0.6 * 0.5 + 0.4 * (1 + 4) / 2 = 1.3
    assert float(make_loss(params, 1, regression=True)(logits, labels, cached)) == pytest.approx(1.3)


# ---- the constants that published variants differ by, at K = 2 ----


def on_the_true_class(log_soft: Tensor) -> float:
    return float(log_soft.exp()[0, 0])


def test_constants_of_the_design() -> None:
    label = torch.tensor([0])
    hot = torch.tensor([[1.0, 0.0]])
    assert float((0.9 * hot + 0.1 * uniform_soft_labels(label, 2))[0, 0]) == pytest.approx(0.95)
    assert float((0.9 * hot + 0.1 * uniform_others_soft_labels(label, 2))[0, 0]) == pytest.approx(0.90)
    designed = designed_soft_labels(label, 2, 0.99)
    assert float(designed[0, 0]) == pytest.approx(0.99)
    assert on_the_true_class(soften(designed, 20)) == pytest.approx(0.512, abs=5e-4)  # released
    assert on_the_true_class(soften(designed.log(), 20)) == pytest.approx(0.557, abs=5e-4)  # paper


@pytest.mark.parametrize("classes", [2, 3, 5, 1000])
def test_soft_labels_are_distributions(classes: int) -> None:
    labels = torch.tensor([0, classes - 1, 1])
    designed = designed_soft_labels(labels, classes, 0.9)
    for soft in (uniform_soft_labels(labels, classes), uniform_others_soft_labels(labels, classes), designed):
        assert soft.shape == (3, classes)
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(designed[torch.arange(3), labels], torch.full((3,), 0.9))
    assert torch.equal(uniform_others_soft_labels(labels, classes)[torch.arange(3), labels], torch.zeros(3))


# ---- the obvious slow version, in float64 ----

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "uniform": {"soft_labels": "uniform", "alpha": 0.1},
    "uniform_tempered": {"soft_labels": "uniform", "alpha": 0.1, "temperature": 4},
    "uniform_reverse": {"soft_labels": "uniform", "alpha": 0.2, "divergence": "reverse_kl"},
    "uniform_others": {"soft_labels": "uniform_others", "alpha": 0.1},
    "designed": {"soft_labels": "designed", "alpha": 0.5, "correct": 0.99, "temperature": 20},
    "designed_reverse": {
        "soft_labels": "designed", "alpha": 0.5, "correct": 0.9, "temperature": 2, "divergence": "reverse_kl",
    },
    "released": {**RELEASED, "alpha": 0.5, "correct": 0.99, "temperature": 20, "multiplier": 7},
    "teacher": {"soft_labels": "teacher", "alpha": 0.7, "temperature": 3},
    "teacher_only": {"soft_labels": "teacher", "alpha": 1.0, "temperature": 3},
    "teacher_reverse": {"soft_labels": "teacher", "alpha": 0.7, "temperature": 3, "divergence": "reverse_kl"},
    "self": {"soft_labels": "self", "alpha": 0.5, "temperature": 2},
    "self_mse": {"soft_labels": "self", "alpha": 0.5, "divergence": "mse"},
    "teacher_decoupled": {**DKD, "alpha": 0.5, "beta": 8, "temperature": 4},
    "teacher_annealed": {
        "soft_labels": "teacher", "alpha": {"start": 1.0, "end": 0.2}, "temperature": {"start": 5, "end": 1},
    },
    "released_annealed": {**RELEASED, "alpha": 0.5, "correct": 0.99, "temperature": {"start": 20, "end": 2}},
}  # fmt: skip


def slow_softmax(logits: list[Any]) -> list[Any]:
    exponentials = [torch.as_tensor(logit, dtype=torch.float64).exp() for logit in logits]
    return [e / sum(exponentials) for e in exponentials]


def slow_kl(p: list[Any], q: list[Any]) -> Any:
    return sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True) if a.detach() > 0)


def slow_soft_labels(params: Regularizer, label: int, cached: list[Any]) -> list[Any]:
    """p_tau, from the powers p^(1/tau) and not from a softmax of logarithms."""
    classes = len(cached)
    if params.soft_labels in ("teacher", "self"):
        return slow_softmax([logit / params.temperature for logit in cached])
    correct = {"uniform": 1 / classes, "uniform_others": 0.0}.get(str(params.soft_labels), params.correct)
    assert correct is not None
    p = [correct if k == label else (1 - correct) / (classes - 1) for k in range(classes)]
    if params.variant == "released":
        return slow_softmax([a / params.temperature for a in p])
    powers = [a ** (1 / params.temperature) for a in p]
    return [torch.tensor(a / sum(powers), dtype=torch.float64) for a in powers]


def slow_soft_term(params: Regularizer, z: list[Any], label: int, cached: list[Any]) -> Any:
    if params.divergence == "mse":
        return sum((a - b) ** 2 for a, b in zip(z, cached, strict=True)) / len(z)
    p = slow_soft_labels(params, label, cached)
    if params.variant == "released":
        return params.multiplier * slow_kl(p, slow_softmax(z)) / len(z)
    q = slow_softmax([a / params.temperature for a in z])
    if params.divergence == "dkd":
        return params.temperature**2 * slow_decoupled(p, q, label, params.beta)
    divergence = slow_kl(p, q) if params.divergence == "kl" else slow_kl(q, p)
    return params.temperature**2 * divergence


def slow_decoupled(p: list[Any], q: list[Any], label: int, beta: Any) -> Any:
    """From the probabilities themselves."""
    others = [k for k in range(len(p)) if k != label]
    p_rest, q_rest = sum(p[k] for k in others), sum(q[k] for k in others)
    true_or_not = slow_kl([p[label], p_rest], [q[label], q_rest])
    return true_or_not + beta * slow_kl([p[k] / p_rest for k in others], [q[k] / q_rest for k in others])


PROGRESS = 0.25  # where the slow version stands in training


def slow_loss(params: Regularizer, logits: Tensor, labels: Tensor, cached: Tensor) -> Tensor:
    """The formula, row by row and class by class."""
    for key in ("alpha", "temperature"):
        if isinstance(scheduled := getattr(params, key), Schedule):
            now = 0.75 * scheduled.start + 0.25 * scheduled.end
            params = params.model_copy(update={key: now})
    total = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        z = [logits[row, k] for k in range(logits.shape[1])]
        total = total + (1 - params.alpha) * -slow_softmax(z)[label].log()
        if not params.is_base:
            total = total + params.alpha * slow_soft_term(params, z, label, list(cached[row]))
    return total / len(labels)


def batch(classes: int, rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    cached = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (rows,), generator=generator)
    return logits.requires_grad_(), labels, cached


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", VARIANTS)
def test_value_and_gradient_equal_the_slow_version(name: str, classes: int) -> None:
    params = Regularizer(**VARIANTS[name])
    logits, labels, cached = batch(classes)
    fast = make_loss(params, classes)(logits, labels, cached, PROGRESS)
    slow = slow_loss(params, logits, labels, cached)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    (fast_gradient,) = torch.autograd.grad(fast, logits)
    (slow_gradient,) = torch.autograd.grad(slow, logits)
    torch.testing.assert_close(fast_gradient, slow_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_equal_finite_differences(name: str) -> None:
    logits, labels, cached = batch(classes=3, rows=2)
    loss = make_loss(Regularizer(**VARIANTS[name]), 3)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, cached, PROGRESS), (logits,))


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_are_finite_for_extreme_logits(name: str) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    cached = torch.tensor([[-200.0, 200.0], [-200.0, 200.0]])
    loss = make_loss(Regularizer(**VARIANTS[name]), 2)(logits, torch.tensor([0, 0]), cached, PROGRESS)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


# ---- torch and published definitions ----


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_uniform_is_torch_label_smoothing_but_for_a_constant(classes: int, alpha: float) -> None:
    logits, labels, _ = batch(classes)
    ours = make_loss(Regularizer(soft_labels="uniform", alpha=alpha), classes)(logits, labels, None)
    torchs = F.cross_entropy(logits, labels, label_smoothing=alpha)
    # KL(u||p) = H(u, p) - H(u), and H(u) = ln K
    assert ours.item() == pytest.approx(torchs.item() - alpha * ln(classes), rel=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, torchs)))


def test_uniform_others_is_cross_entropy_with_mixed_labels() -> None:
    logits, labels, _ = batch(5)
    mixed = torch.full((6, 5), 0.1 / 4, dtype=torch.float64)
    mixed[torch.arange(6), labels] = 0.9
    ours = make_loss(Regularizer(**VARIANTS["uniform_others"]), 5)(logits, labels, None)
    # KL(u'||p) = H(u', p) - ln(K - 1)
    assert ours.item() == pytest.approx(F.cross_entropy(logits, mixed).item() - 0.1 * ln(4), rel=1e-12)


def test_released_averages_over_batch_and_classes() -> None:
    logits, labels, _ = batch(5)
    probabilities = torch.full((6, 5), 0.01 / 4, dtype=torch.float64)
    probabilities[torch.arange(6), labels] = 0.99
    divergence = torch.nn.KLDivLoss(reduction="none")(logits.log_softmax(1), (probabilities / 20).softmax(1))
    expected = 50 * divergence.mean().item()
    assert released_tf_reg(logits, labels, 0.99, 20, 50).item() == pytest.approx(expected, rel=1e-12)


def test_the_confidence_penalty_is_log_k_minus_the_entropy() -> None:
    logits, labels, _ = batch(5)
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    uniform = uniform_soft_labels(labels, 5, torch.float64).log()
    assert reverse_kl(uniform, soften(logits, 1)).item() == pytest.approx(ln(5) - entropy.item(), rel=1e-12)


def test_kl_at_a_high_temperature_is_half_the_mse_of_centred_logits() -> None:
    logits, _, cached = batch(5)
    centred = [z - z.mean(dim=1, keepdim=True) for z in (logits, cached)]
    tempered = 1e4**2 * kl(soften(cached, 1e4), soften(logits, 1e4))
    assert tempered.item() == pytest.approx(mse(*centred).item() / 2, rel=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-20, 20), min_size=6, max_size=6), st.floats(-50, 50), st.floats(0.5, 20))
def test_divergences_are_zero_only_for_equal_rows(values: list[float], shift: float, tau: float) -> None:
    logits = torch.tensor(values, dtype=torch.float64).reshape(2, 3)
    same = soften(logits + shift, tau)  # a constant added to all logits changes nothing
    for divergence in (kl, reverse_kl):
        assert float(divergence(soften(logits, tau), same)) == pytest.approx(0, abs=1e-9)
        assert float(divergence(soften(logits, tau), soften(logits.flip(1), tau))) >= -1e-12


def test_kl_is_its_two_parts_with_the_teachers_doubt_as_weight() -> None:
    """KL(p || q) = TCKD + (1 - p_t) NCKD (Zhao et al. 2022, eq. 6), row by row."""
    logits, labels, cached = batch(5)
    log_p, log_q = soften(cached, 3), soften(logits, 3)
    for row, label in enumerate(labels.tolist()):
        doubt = 1 - float(log_p[row, label].exp())
        here = slice(row, row + 1)
        parts = decoupled_kl(log_p[here], log_q[here], labels[here], doubt)
        assert parts.item() == pytest.approx(kl(log_p[here], log_q[here]).item(), rel=1e-12)


@pytest.mark.usefixtures("own")
def test_an_own_function_is_called_with_three_arguments_whatever_the_progress() -> None:
    params = {"function": "own_losses:against", "soft_labels": "teacher"}
    assert value(params, [1.0, 3.0], 0, [2.0, 1.0], 0.5) == pytest.approx(1.5)


# ---- precision ----


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_are_float32_for_bfloat16_logits_and_under_autocast(name: str) -> None:
    logits, labels, cached = (tensor.detach() for tensor in batch(5))
    half = logits.bfloat16()
    loss = make_loss(Regularizer(**VARIANTS[name]), 5)
    expected = loss(half.float(), labels, cached.float(), PROGRESS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(half, labels, cached.float(), PROGRESS)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_gradients_flow_through_bfloat16_logits() -> None:
    logits = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    make_loss(Regularizer(soft_labels="uniform", alpha=0.1), 3)(logits, torch.tensor([0, 1]), None).backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_cached_logits_get_no_gradient() -> None:
    logits, labels, cached = batch(3)
    cached.requires_grad_()
    loss = make_loss(Regularizer(**VARIANTS["teacher"]), 3)(logits, labels, cached)
    loss.backward()
    assert cached.grad is None


# ---- what does not fit ----


def test_needs_logits() -> None:
    assert [name for name, params in VARIANTS.items() if needs_logits(Regularizer(**params))] == [
        "teacher", "teacher_only", "teacher_reverse", "self", "self_mse", "teacher_decoupled", "teacher_annealed",
    ]  # fmt: skip
    assert needs_logits(Regularizer(function="m:f", soft_labels="teacher"))


LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("name", "logits", "labels", "cached", "message"),
    [
        ("teacher", torch.zeros(2, 3), LABELS, None, "needs cached logits, found none"),
        ("self_mse", torch.zeros(2, 3), LABELS, None, "needs cached logits, found none"),
        ("teacher", torch.zeros(2, 3), LABELS, torch.zeros(2, 2), r"cached logits have shape \[2, 2\]"),
        ("teacher", torch.zeros(2, 3), LABELS, torch.zeros(1, 3), r"cached logits have shape \[1, 3\]"),
        ("base", torch.zeros(2, 4), LABELS, None, r"expected logits of shape \[B, 3\], found \[2, 4\]"),
        ("base", torch.zeros(2), LABELS, None, r"expected logits of shape \[B, 3\], found \[2\]"),
        ("base", torch.zeros(2, 3), torch.tensor([0]), None, r"expected 2 labels, found shape \[1\]"),
        ("base", torch.zeros(2, 3), torch.tensor([[0], [1]]), None, "expected 2 labels"),
    ],
)
def test_tensors_that_do_not_fit(
    name: str, logits: Tensor, labels: Tensor, cached: Tensor | None, message: str
) -> None:
    with pytest.raises(RegularizerError, match=message):
        make_loss(Regularizer(**VARIANTS[name]), 3)(logits, labels, cached)


def test_tasks_that_do_not_fit() -> None:
    with pytest.raises(RegularizerError, match="uniform with divergence: kl is not defined for a regression"):
        make_loss(Regularizer(soft_labels="uniform", alpha=0.1), 1, regression=True)
    with pytest.raises(RegularizerError, match="a regression has one output, found 2"):
        make_loss(Regularizer(), 2, regression=True)
    with pytest.raises(RegularizerError, match="at least 2 classes, found 1"):
        make_loss(Regularizer(), 1)


# ---- a user's own loss ----

OWN = """
import torch
import torch.nn.functional as F

def focal(logits, labels, soft_logits):
    hard = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-hard).exp()) ** 2 * hard).mean()

def against(logits, labels, soft_logits):
    return (logits - soft_logits).abs().mean()

def vector(logits, labels, soft_logits): return logits.sum(dim=1)
def number(logits, labels, soft_logits): return 1.0
def detached(logits, labels, soft_logits): return logits.detach().sum()
def two(logits, labels): return logits.sum()
constant = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_losses.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("import no_such_library")
    (tmp_path / "own_raising.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("own")
def test_an_own_function() -> None:
    # K = 2, p = 3/4: (1/4)^2 * 0.287682 = 0.017980
    assert value({"function": "own_losses:focal"}, TWO, 0) == pytest.approx(0.017980, abs=1e-6)
    # (|1 - 2| + |3 - 1|) / 2
    params = {"function": "own_losses:against", "soft_labels": "teacher"}
    assert value(params, [1.0, 3.0], 0, [2.0, 1.0]) == pytest.approx(1.5)


@pytest.mark.usefixtures("own")
def test_an_own_function_gets_float32_and_may_serve_a_regression() -> None:
    loss = make_loss(Regularizer(function="own_losses:against", soft_labels="self"), 1, regression=True)
    logits = torch.ones(2, 1, dtype=torch.bfloat16)
    assert loss(logits, torch.zeros(2), torch.zeros(2, 1, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:f", "cannot import no_such_module: ModuleNotFoundError"),
        ("own_broken:f", "cannot import own_broken: .*no_such_library"),
        ("own_raising:f", "cannot import own_raising: ZeroDivisionError"),
        ("own_losses:focus", "the module own_losses has no 'focus'"),
        ("own_losses:constant", "expected a function, found int"),
        ("own_losses:two", "must take three arguments"),
    ],
)
def test_an_own_function_that_cannot_be_used(function: str, message: str) -> None:
    with pytest.raises(RegularizerError, match=f"function: {function}: {message}"):
        make_loss(Regularizer(function=function), 2)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("own_losses:vector", r"expected a scalar tensor, found shape \[2\]"),
        ("own_losses:number", "expected a scalar tensor, found float"),
        ("own_losses:detached", "does not depend on the logits"),
    ],
)
def test_an_own_function_with_a_wrong_result(function: str, message: str) -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    with pytest.raises(RegularizerError, match=message):
        make_loss(Regularizer(function=function), 2)(logits, torch.tensor([0, 1]), None)


@pytest.mark.usefixtures("own")
def test_an_own_function_that_needs_missing_logits() -> None:
    loss = make_loss(Regularizer(function="own_losses:against", soft_labels="teacher"), 2)
    with pytest.raises(RegularizerError, match="needs cached logits"):
        loss(torch.zeros(2, 2), LABELS, None)


# ---- rows without a label ----
# z = (ln 9, 0) and s = (0, 0): at tau 2 q = (3/4, 1/4), p = (1/2, 1/2), KL(p || q) = 0.143841 and tau^2 KL = 0.575364;
# z = (0, 0) and s = (ln 9, 0): KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812 and tau^2 KL = 0.523248.
HALF = {"soft_labels": "teacher", "alpha": 0.25, "temperature": 2, "unlabelled": "use"}
HOT_AND_FLAT = torch.tensor([TWO_HOT, [0.0, 0.0], TWO_HOT])
SOFT_THREE = torch.tensor([[0.0, 0.0], TWO_HOT, [0.0, 0.0]])


def test_a_batch_with_labelled_and_unlabelled_rows() -> None:
    # labelled, class 1 of (9/10, 1/10): 0.75 * 2.302585 + 0.25 * 0.575364 = 1.870780
    # unlabelled: 0.523248 and 0.575364, at full weight; (1.870780 + 0.523248 + 0.575364) / 3 = 0.989797
    loss = make_loss(Regularizer(**HALF), 2)
    assert float(loss(HOT_AND_FLAT, torch.tensor([1]), SOFT_THREE)) == pytest.approx(0.989797, abs=1e-6)


def test_a_batch_without_any_label() -> None:
    loss = make_loss(Regularizer(**HALF), 2)
    found = loss(HOT_AND_FLAT, torch.empty(0, dtype=torch.int64), SOFT_THREE)
    assert float(found) == pytest.approx((0.575364 + 0.523248 + 0.575364) / 3, abs=1e-6)


def test_a_batch_in_which_all_rows_have_labels_is_as_without_unlabelled_rows() -> None:
    labels, plain = torch.tensor([1, 0, 1]), {**HALF, "unlabelled": "ignore"}
    found, expected = (
        float(make_loss(Regularizer(**how), 2)(HOT_AND_FLAT, labels, SOFT_THREE)) for how in (HALF, plain)
    )
    assert found == expected


def test_unlabelled_rows_of_logit_matching_and_of_a_regression() -> None:
    # mse is a mean over classes: ((ln 9)^2 + 0) / 2 = 2.413898 on each row; labelled: 0.5 * 2.302585 + 0.5 * 2.413898
    match = Regularizer(soft_labels="teacher", alpha=0.5, divergence="mse", unlabelled="use")
    found = make_loss(match, 2)(HOT_AND_FLAT, torch.tensor([1]), SOFT_THREE)
    assert float(found) == pytest.approx((2.358242 + 2 * 2.413898) / 3, abs=1e-6)
    # z = 1 and s = 3 on both rows, y = 2 on the first: 0.5 * 1 + 0.5 * 4 = 2.5, and 4
    numbers, soft = torch.ones(2, 1), torch.full((2, 1), 3.0)
    assert float(make_loss(match, 1, regression=True)(numbers, torch.tensor([2.0]), soft)) == pytest.approx(
        3.25
    )


def test_an_annealed_alpha_is_that_of_labelled_rows() -> None:
    annealed = Regularizer(**{**HALF, "alpha": {"start": 1.0, "end": 0.0}})
    # at the end the labelled row has its cross-entropy alone: (2.302585 + 0.523248 + 0.575364) / 3
    found = make_loss(annealed, 2)(HOT_AND_FLAT, torch.tensor([1]), SOFT_THREE, 1.0)
    assert float(found) == pytest.approx(1.133732, abs=1e-6)


def test_fewer_labels_than_rows_are_refused_where_all_should_have_one() -> None:
    labels = torch.tensor([1])
    with pytest.raises(RegularizerError, match=r"expected 3 labels, found shape \[1\]"):
        make_loss(Regularizer(**{**HALF, "unlabelled": "ignore"}), 2)(HOT_AND_FLAT, labels, SOFT_THREE)
    with pytest.raises(RegularizerError, match=r"expected at most 3 labels, found shape \[4\]"):
        make_loss(Regularizer(**HALF), 2)(HOT_AND_FLAT, torch.zeros(4, dtype=torch.int64), SOFT_THREE)
    with pytest.raises(RegularizerError, match="needs cached logits"):
        make_loss(Regularizer(**HALF), 2)(HOT_AND_FLAT, labels)


# ---- class weights ----


def test_each_rows_cross_entropy_counts_as_its_class_says() -> None:
    """Logits (ln 3, 0): -ln 3/4 for class 0, -ln 1/4 for class 1; the mean over the batch, not over the weights."""
    loss = make_loss(Regularizer(), 2, class_weights=[0.5, 4.0])
    both = torch.tensor([TWO, TWO])
    assert float(loss(both, torch.tensor([0, 1]))) == pytest.approx(
        (0.5 * ln(4 / 3) + 4 * ln(4)) / 2, rel=1e-6
    )
    assert float(loss(both, torch.tensor([0, 0]))) == pytest.approx(0.5 * ln(4 / 3), rel=1e-6)


def test_soft_labels_are_not_weighed() -> None:
    """alpha 0.5, tau 1, teacher (1/2, 1/2), student (3/4, 1/4)."""
    kd = Regularizer(soft_labels="teacher", alpha=0.5)
    loss = make_loss(kd, 2, class_weights=[3.0, 1.0])
    found = float(loss(torch.tensor([TWO]), torch.tensor([0]), torch.zeros(1, 2)))
    away = 0.5 * ln(0.5 / 0.75) + 0.5 * ln(0.5 / 0.25)
    assert found == pytest.approx(0.5 * 3 * ln(4 / 3) + 0.5 * away, rel=1e-6)


def test_weights_of_one_change_nothing() -> None:
    logits, labels = torch.randn(7, 5), torch.arange(7) % 5
    weighed = make_loss(Regularizer(**SMOOTH), 5, class_weights=[1.0] * 5)(logits, labels)
    torch.testing.assert_close(weighed, make_loss(Regularizer(**SMOOTH), 5)(logits, labels))


def test_the_parts_of_a_batch_add_up_to_the_batch() -> None:
    logits, labels = torch.randn(8, 3), torch.tensor([0, 0, 0, 0, 1, 1, 2, 0])
    loss = make_loss(Regularizer(), 3, class_weights=[0.5, 2.0, 9.0])
    parts = loss(logits[:6], labels[:6]) * 6 / 8 + loss(logits[6:], labels[6:]) * 2 / 8
    torch.testing.assert_close(parts, loss(logits, labels))


def test_class_weights_that_do_not_fit() -> None:
    own = Regularizer(function="math:hypot")
    for params, classes, regression, message in (
        (Regularizer(), 3, False, "expected one for each of 3 classes, found 2"),
        (Regularizer(), 1, True, "a regression has no classes"),
        (own, 2, False, "a function of your own weighs them itself"),
    ):
        with pytest.raises(RegularizerError, match=message):
            make_loss(params, classes, regression, [1.0, 2.0])
