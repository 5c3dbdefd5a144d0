"""The five methods: the paper's formula, Yuan et al.'s released formula, and which of them each study uses.

The paper is Kobyzev et al. (EACL 2023, arXiv 2205.12428), here from public summaries; its constants are not known.
The released formulas are those of my_loss_function.py of Yuan et al. (CVPR 2020, arXiv 1909.11723). H is the
cross-entropy, q the label, p the student, u = 1/K, a alpha, m a multiplier; `mean` is over the classes, as in torch's
`KLDivLoss()`.

| method | the paper | released | ours, at the same alpha |
| --- | --- | --- | --- |
| base | H(q, p) | the same | the same |
| label smoothing | H((1 - a) q + a u, p) | a / (K - 1) on the others | either, less a constant |
| TF-reg | (1 - a) H(q, p) + a KL(p^d_tau, p_tau) | a m mean KL(softmax(p^d/tau), p) | tau^2 KL, or the released |
| KD | (1 - a) H(q, p) + a KL(p^t_tau, p_tau) | a tau^2 mean KL | a tau^2 KL: a sum over the classes |
| Self-KD | KD by a fine-tuned copy of the student | KD's, times m | KD by the baseline of the same seed |

That our losses are these formulas is proved in test_regularizers.py: base by test_base_*; label smoothing by
test_uniform_*; TF-reg by test_designed_as_*, test_released_* and test_constants_of_the_design; KD and Self-KD by
test_distillation_*; and all against a slow version. That Self-KD learns from the same seed's baseline is proved in
test_experiment.py. Here: how our numbers, the paper's and the released ones go over into each other. A constant added
to a loss changes no gradient; a constant factor changes little: AdamW divides it out, but gradients are clipped sooner.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from kdcache.study import Regularizer, Study, load_study
from tests.study.test_loading import ROOT, SHIPPED
from tests.training.test_regularizers import FIVE, FIVE_HOT, OTHERS, RELEASED, SMOOTH, TWO, TWO_HOT, value

ln = math.log

# What the numbers below are made of; each is worked out in test_regularizers.py.
# K = 2: the student (ln 9, 0) has H = -ln 9/10 = 0.105361 for class 0; softened by tau 2 it is (3/4, 1/4).
#        Soft labels (2/3, 1/3): KL = 0.017372.
# K = 5: the student (ln 16, 0, 0, 0, 0) has H = -ln 4/5 = 0.223144; softened by tau 2 it is (1/2, 1/8, ...).
#        Soft labels (1/3, 1/6, ...): KL = 0.056633.
TEACHER_TWO = [ln(4), 0.0]  # (2/3, 1/3) at tau 2


def ours(params: dict[str, Any], classes: int) -> float:
    """The loss of one row of class 0, for TF-reg and distillers at tau 2."""
    logits, cached = (TWO_HOT, TEACHER_TWO) if classes == 2 else (FIVE_HOT, FIVE)
    return value({**params, "temperature": 2}, logits, 0, cached)


# ---- label smoothing ----


def test_label_smoothing_of_the_paper() -> None:
    # KL(u, p) in place of H(u, p): less by alpha ln K.
    # K = 2, p = (3/4, 1/4): q' = (0.95, 0.05): 0.95 * 0.287682 + 0.05 * 1.386294 = 0.342613
    assert value(SMOOTH, TWO, 0) + 0.1 * ln(2) == pytest.approx(0.342613, abs=2e-6)
    # K = 5, p = (1/2, 1/8, ...): q' = (0.92, 0.02, ...): 0.92 * 0.693147 + 0.08 * 2.079442 = 0.804051
    assert value(SMOOTH, FIVE, 0) + 0.1 * ln(5) == pytest.approx(0.804051, abs=2e-6)


def test_label_smoothing_as_released() -> None:
    # Less by alpha ln (K - 1).  K = 2: q' = (0.9, 0.1): 0.9 * 0.287682 + 0.1 * 1.386294 = 0.397543
    assert value(OTHERS, TWO, 0) + 0.1 * ln(1) == pytest.approx(0.397543, abs=2e-6)
    # K = 5: q' = (0.9, 0.025, ...): 0.9 * 0.693147 + 0.1 * 2.079442 = 0.831777
    assert value(OTHERS, FIVE, 0) + 0.1 * ln(4) == pytest.approx(0.831777, abs=2e-6)


# ---- KD, Self-KD and TF-reg of the paper: no tau^2, as far as public summaries show ----
# (1 - a) H + a tau^2 KL = c * ((1 - a') H + a' KL) with c = 1 - a + a tau^2 and a' = a tau^2 / c.


def test_tau_squared_is_another_alpha_two_classes() -> None:
    # Alpha 0.5, tau 2: c = 0.5 + 2 = 2.5, a' = 2 / 2.5 = 0.8.
    # Printed, at 0.8: 0.2 * 0.105361 + 0.8 * 0.017372 = 0.034970;  times 2.5: 0.087424
    for params in (
        {"soft_labels": "teacher"},
        {"soft_labels": "self"},
        {"soft_labels": "designed", "correct": 0.8},
    ):
        assert ours({**params, "alpha": 0.5}, 2) / 2.5 == pytest.approx(0.034970, abs=1e-6)


def test_tau_squared_is_another_alpha_five_classes() -> None:
    # Alpha 0.25, tau 2: c = 0.75 + 1 = 1.75, a' = 1 / 1.75 = 4/7.
    # Printed, at 4/7: 3/7 * 0.223144 + 4/7 * 0.056633 = 0.095633 + 0.032362 = 0.127995
    for params in (
        {"soft_labels": "teacher"},
        {"soft_labels": "self"},
        {"soft_labels": "designed", "correct": 0.5},
    ):
        assert ours({**params, "alpha": 0.25}, 5) / 1.75 == pytest.approx(0.127995, abs=1e-6)


# ---- KD and Self-KD as released: (1 - a) H + a tau^2 m KL / K, m = 1 for KD ----
# It is ours at alpha b = a m / (a m + K (1 - a)), times (1 - a) / (1 - b).


def test_released_distillation_two_classes() -> None:
    # KD at their alpha 0.95: 0.05 * 0.105361 + 0.95 * 4 * 0.017372 / 2 = 0.005268 + 0.033007 = 0.038275
    # b = 0.95 / (0.95 + 2 * 0.05) = 19/21; (1 - a) / (1 - b) = 0.05 * 21/2 = 0.525
    assert 0.525 * ours({"soft_labels": "teacher", "alpha": 19 / 21}, 2) == pytest.approx(0.038275, abs=1e-6)
    # Self-KD with m = K is ours at the same alpha: 0.7 * 0.105361 + 0.3 * 4 * 2 * 0.017372 / 2 = 0.094599
    assert ours({"soft_labels": "self", "alpha": 0.3}, 2) == pytest.approx(0.094599, abs=1e-6)


def test_released_distillation_five_classes() -> None:
    # KD at 0.95: 0.05 * 0.223144 + 0.95 * 4 * 0.056633 / 5 = 0.011157 + 0.043041 = 0.054198
    # b = 0.95 / (0.95 + 5 * 0.05) = 19/24; (1 - a) / (1 - b) = 0.05 * 24/5 = 0.24
    assert 0.24 * ours({"soft_labels": "teacher", "alpha": 19 / 24}, 5) == pytest.approx(0.054198, abs=1e-6)
    # Self-KD at their alpha 0.1 and m = 50: 0.9 * 0.223144 + 0.1 * 4 * 50 * 0.056633 / 5 = 0.200830 + 0.226532
    # b = 5 / (5 + 4.5) = 10/19; (1 - a) / (1 - b) = 0.9 * 19/9 = 1.9
    assert 1.9 * ours({"soft_labels": "self", "alpha": 10 / 19}, 5) == pytest.approx(0.427362, abs=3e-6)


# ---- TF-reg with the constants of the studies: the two variants are far apart ----

TF_REG = {"soft_labels": "designed", "correct": 0.99, "alpha": 0.5, "temperature": 20}


def test_tf_reg_with_the_constants_of_the_studies_two_classes() -> None:
    # The paper's: p^d_tau: 99^(1/20) = 1.258294: (0.557188, 0.442812).
    # The student: 3^(1/20) = 1.056467: (0.513729, 0.486271).
    # KL = 0.557188 ln 1.084594 + 0.442812 ln 0.910627 = 0.0452473 - 0.0414563 = 0.0037910
    # 0.5 * 0.287682 + 0.5 * 400 * 0.0037910 = 0.902034: printed, alpha 200 / 200.5 = 0.9975 in place of 0.5.
    assert value(TF_REG, TWO, 0) == pytest.approx(0.902034, abs=3e-5)
    # Released: 0.176512, see test_designed_as_released_two_classes.
    assert value({**TF_REG, **RELEASED}, TWO, 0) == pytest.approx(0.176512, abs=1e-6)


def test_tf_reg_with_the_constants_of_the_studies_five_classes() -> None:
    # The paper's: 396^(1/20) = 1.348605: (0.252141, 0.186965, ...).
    # The student: 4^(1/20) = 1.071773: (0.211321, 0.197170, ...).
    # KL = 0.252141 ln 1.193163 + 0.747859 ln 0.948244 = 0.0445310 - 0.0397452 = 0.0047858
    # 0.5 * 0.693147 + 0.5 * 400 * 0.0047858 = 1.303730
    assert value(TF_REG, FIVE, 0) == pytest.approx(1.303730, abs=3e-5)
    # Released: softmax((0.99, 0.0025, ...) / 20): e^0.0495 / (e^0.0495 + 4 e^0.000125) = 0.208017, others 0.197996.
    # KL = 0.208017 ln(0.208017 / 0.5) + 0.791983 ln(0.197996 / 0.125) = -0.182428 + 0.364258 = 0.181830
    # 0.5 * 0.693147 + 0.5 * 0.181830 / 5 = 0.364757
    assert value({**TF_REG, **RELEASED}, FIVE, 0) == pytest.approx(0.364757, abs=1e-6)


# ---- which variant each study uses ----

STRENGTHS = {"alpha", "temperature", "correct", "multiplier"}
UNTEMPERED = {"base", "label_smoothing"}
# The paper's, up to tau^2.
PAPER: dict[str, dict[str, Any]] = {
    "base": {},
    "label_smoothing": {"soft_labels": "uniform"},
    "tf_reg": {"soft_labels": "designed"},
    "kd": {"soft_labels": "teacher"},
    "self_kd": {"soft_labels": "self"},
}
# Where the label is a number there are no probabilities: raw outputs are compared.
REGRESSION: dict[str, dict[str, Any]] = {
    "base": {},
    "kd": {"soft_labels": "teacher", "divergence": "mse"},
    "self_kd": {"soft_labels": "self", "divergence": "mse"},
}


def declared(study: Study) -> dict[str, dict[str, Any]]:
    return REGRESSION if all(task.regression for task in study.tasks.values()) else PAPER


@pytest.mark.parametrize("path", SHIPPED)
def test_a_study_uses_the_papers_variant_of_each_of_the_five(path: str) -> None:
    """A method that is another variant has another name (tf_reg_released), and a sentence in the study that says so."""
    study = load_study(ROOT / path)
    variants = declared(study)
    five = {name: method for name, method in study.methods().items() if name in PAPER}
    assert set(five) <= set(variants)
    for name, method in five.items():
        strengths = {key: value for key, value in method.model_dump().items() if key in STRENGTHS}
        expected = Regularizer(**variants[name], **(strengths if variants[name] else {}))
        assert method.model_copy(update={"teacher": None}) == expected, f"{name}, whoever teaches"
        assert isinstance(method.alpha, float), f"{name}: a constant alpha"
        assert isinstance(method.temperature, float), f"{name}: a constant temperature"
        assert method.temperature == 1 or name not in UNTEMPERED


@pytest.mark.parametrize("path", ["params.yaml", "studies/families.yaml", "studies/methods.yaml"])
def test_the_constants_of_the_five(path: str) -> None:
    """Ours: the paper's are not known. Label smoothing's and TF-reg's are among those of Yuan et al."""
    methods = load_study(ROOT / path).methods()
    assert {name: methods[name] for name in PAPER} == {
        "base": Regularizer(),
        "label_smoothing": Regularizer(soft_labels="uniform", alpha=0.1),
        "tf_reg": Regularizer(**TF_REG),
        "kd": Regularizer(soft_labels="teacher", alpha=0.5, temperature=2),
        "self_kd": Regularizer(soft_labels="self", alpha=0.5, temperature=2),
    }
