"""Scores against numbers computed by hand, scikit-learn, scipy and torch."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from kdcache.tasks import scoring
from kdcache.tasks.scoring import ScoringError, applicable_metrics, check_metrics, score

ln = math.log
# Four rows, probabilities (3/4, 1/4), (3/4, 1/4), (1/4, 3/4), (1/2, 1/2); a tie predicts the first class.
LOGITS = np.array([[ln(3), 0.0], [ln(3), 0.0], [0.0, ln(3)], [0.0, 0.0]])
LABELS = np.array([0, 1, 1, 1])  # predicted: 0, 0, 1, 0


def test_two_classes_by_hand() -> None:
    found = score(LOGITS, LABELS, ["accuracy", "f1", "macro_f1", "matthews"])
    # class 1: precision 1/1, recall 1/3, F1 1/2; class 0: precision 1/3, recall 1, F1 1/2
    # Matthews: (TP TN - FP FN) / sqrt(...) = (1 * 1 - 0 * 2) / sqrt(1 * 3 * 1 * 3) = 1/3
    # nll: (ln 4/3 + ln 4 + ln 4/3 + ln 2) / 4
    # Brier, 2 (1 - p)^2 a row: 2 (1/16 + 9/16 + 1/16 + 4/16) / 4 = 15/32
    # ECE: the bin of 3/4 has 3 rows, 2 right: 3/4 |2/3 - 3/4| = 1/16;
    #      the bin of 1/2 has 1 row, wrong: 1/4 * 1/2 = 1/8
    expected = {
        "accuracy": 0.5,
        "f1": 0.5,
        "macro_f1": 0.5,
        "matthews": 1 / 3,
        "nll": (2 * ln(4 / 3) + ln(4) + ln(2)) / 4,
        "brier": 15 / 32,
        "ece": 3 / 16,
    }
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-12)
    assert all(type(value) is float for value in found.values())


def test_f1_of_the_first_class() -> None:
    # Labels 0, 1, 1, 1, predicted 0, 0, 1, 1. Class 0: precision 1/2, recall 1, F1 2/3; class 1: 1, 2/3, F1 4/5
    logits = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    first = score(logits, LABELS, ["accuracy", "f1", "matthews"], positive=0)
    second = score(logits, LABELS, ["accuracy", "f1", "matthews"])
    assert (first["f1"], second["f1"]) == (pytest.approx(2 / 3), pytest.approx(4 / 5))
    assert {**first, "f1": second["f1"]} == second


def test_three_classes_by_hand() -> None:
    # Probabilities (1/2, 1/4, 1/4) and (1/4, 1/4, 1/2); labels 0 and 1; predicted 0 and 2.
    logits = np.array([[ln(2), 0.0, 0.0], [0.0, 0.0, ln(2)]])
    found = score(logits, [0, 1], ["accuracy", "macro_f1"])
    # F1: 1, 0, 0.  Brier: (1/4 + 1/16 + 1/16) and (1/16 + 9/16 + 1/4): (6/16 + 14/16) / 2 = 5/8
    expected = {
        "accuracy": 0.5,
        "macro_f1": 1 / 3,
        "nll": (ln(2) + ln(4)) / 2,
        "brier": 0.625,
        "ece": 0.0,  # one bin, confidence 1/2, accuracy 1/2
    }
    assert found == pytest.approx(expected, abs=1e-12)


def test_regression_by_hand() -> None:
    found = score([[1.0], [2.0], [4.0]], [1.0, 3.0, 2.0], ["pearson", "spearman"], regression=True)
    # Centred: (-4/3, -1/3, 5/3) and (-1, 1, 0): 1 / sqrt(14/3 * 2) = 0.327327; ranks 1 2 3 and 1 3 2: 1/2
    expected = {"pearson": 1 / math.sqrt(28 / 3), "spearman": 0.5, "mse": (0 + 1 + 4) / 3}
    assert found == pytest.approx(expected, abs=1e-12)


# ---- oracles ----


def random_rows(classes: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(classes)
    return generator.normal(scale=2, size=(rows, classes)), generator.integers(classes, size=rows)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_classification_equals_scikit_learn_and_torch(classes: int) -> None:
    logits, labels = random_rows(classes)
    found = score(logits, labels, applicable_metrics(classes))
    predicted = logits.argmax(axis=1)
    probabilities = torch.tensor(logits).softmax(dim=1)
    hot = torch.nn.functional.one_hot(torch.tensor(labels), classes)
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "macro_f1": sk.f1_score(labels, predicted, average="macro"),
        "matthews": sk.matthews_corrcoef(labels, predicted),
        "nll": sk.log_loss(labels, probabilities.numpy()),
        "brier": float(((probabilities - hot) ** 2).sum(dim=1).mean()),
        "ece": slow_ece(probabilities.numpy(), labels),
    }
    if classes == 2:
        expected["f1"] = sk.f1_score(labels, predicted)
        assert found["brier"] == pytest.approx(2 * sk.brier_score_loss(labels, probabilities[:, 1].numpy()))
    assert found == pytest.approx(expected, abs=1e-12)


def slow_ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            gap = (predicted == labels)[inside].mean() - confidence[inside].mean()
            total += inside.mean() * abs(gap)
    return total


def test_regression_equals_scipy() -> None:
    generator = np.random.default_rng(0)
    predictions, labels = generator.normal(size=(2, 200))
    found = score(predictions[:, None], labels, ["pearson", "spearman"], regression=True)
    expected = {
        "pearson": stats.pearsonr(predictions, labels).statistic,
        "spearman": stats.spearmanr(predictions, labels).statistic,
        "mse": sk.mean_squared_error(labels, predictions),
    }
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_constant_added_to_a_row_of_logits_changes_nothing() -> None:
    logits, labels = random_rows(5)
    shifted = score(logits + 100, labels, ["accuracy"])
    assert shifted == pytest.approx(score(logits, labels, ["accuracy"]), abs=1e-9)


def test_tensors_and_float32_are_taken() -> None:
    logits, labels = random_rows(3)
    found = score(torch.tensor(logits, dtype=torch.float32), torch.tensor(labels), ["accuracy"])  # type: ignore[arg-type]
    assert found == pytest.approx(score(logits, labels, ["accuracy"]), abs=1e-6)


# ---- degenerate, but defined ----


def test_certain_and_right_or_wrong() -> None:
    right = score([[1000.0, 0.0], [0.0, 1000.0]], [0, 1], ["accuracy", "matthews"])
    assert right == {"accuracy": 1.0, "matthews": 1.0, "nll": 0.0, "brier": 0.0, "ece": 0.0}
    wrong = score([[1000.0, 0.0], [0.0, 1000.0]], [1, 0], ["accuracy", "matthews"])
    assert wrong == {"accuracy": 0.0, "matthews": -1.0, "nll": 1000.0, "brier": 2.0, "ece": 1.0}


def test_constant_predictions_have_no_matthews_correlation() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score([[1.0, 0.0]] * 4, [0, 1, 0, 1], ["matthews", "f1", "macro_f1"])
    assert (found["matthews"], found["f1"]) == (0.0, 0.0)
    assert found["macro_f1"] == pytest.approx(1 / 3)  # class 0: precision 1/2, recall 1, F1 2/3; class 1: 0


def test_macro_f1_counts_the_classes_that_occur() -> None:
    # Class 2 is neither a label nor predicted: the mean is over classes 0 and 1.
    assert score([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0, 1], ["macro_f1"])["macro_f1"] == 1.0


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        ([[1.0], [1.0]], [1.0, 2.0]),
        ([[1.0], [2.0]], [3.0, 3.0]),
        ([[1.0]], [2.0]),
        ([[1e200], [-1e200]], [1.0, 2.0]),
    ],
)
def test_a_correlation_is_never_nan(predictions: list[list[float]], labels: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        correlations = [
            function(np.array(predictions)[:, 0], np.array(labels))
            for function in (scoring.pearson, scoring.spearman)
        ]
    assert all(math.isfinite(value) for value in correlations)


def test_an_undefined_correlation_is_zero() -> None:
    found = score([[1.0], [1.0], [1.0]], [1.0, 2.0, 3.0], ["pearson", "spearman"], regression=True)
    assert (found["pearson"], found["spearman"]) == (0.0, 0.0)


def test_one_row() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score([[0.0, 1.0]], [1], ["accuracy", "matthews"])
    assert (found["accuracy"], found["matthews"]) == (1.0, 0.0)


# ---- what cannot be scored ----


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.0, math.nan], [0.0, 1.0]], [0, 1], r"logits: row 0 has a NaN or infinite value \(1 of 2 rows\)"),
        ([[0.0, 1.0], [0.0, math.inf]], [0, 1], "logits: row 1 has a NaN or infinite value"),
        ([0.0, 1.0], [0, 1], r"expected logits of shape \[N, K\], found \[2\]"),
        (np.zeros((0, 2)), [], r"expected logits of shape \[N, K\], found \[0, 2\]"),
        ([[0.0, 1.0]], [0, 1], r"expected 1 labels, as many as rows of logits, found shape \[2\]"),
        ([[0.0, 1.0]], [[0]], r"found shape \[1, 1\]"),
        ([[0.0, 1.0]], [0.0], "expected integer class labels, found float64"),
        ([[0.0, 1.0], [0.0, 1.0]], [0, 2], r"labels: row 1 is 2, outside 0\.\.1 \(1 such rows\)"),
        ([[0.0, 1.0]], [-1], "labels: row 0 is -1"),
        ([[0.0]], [0], "at least 2 classes, found 1"),
    ],
)
def test_classes_that_cannot_be_scored(logits: Any, labels: Any, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        score(logits, labels, ["accuracy"])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[1.0, 2.0]], [1.0], "a regression has one output, found 2"),
        ([[1.0]], [math.nan], "labels: row 0 has a NaN or infinite value"),
        ([[math.nan]], [1.0], "logits: row 0 has a NaN"),
        ([[1.0]], [1.0, 2.0], "expected 1 labels"),
    ],
)
def test_regressions_that_cannot_be_scored(logits: Any, labels: Any, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        score(logits, labels, ["pearson"], regression=True)


def test_metrics_that_do_not_fit_the_task() -> None:
    with pytest.raises(ScoringError, match=r"f1 needs exactly 2 classes, found 3; use macro_f1"):
        check_metrics(["accuracy", "f1"], 3)
    with pytest.raises(ScoringError, match="pearson is not defined for a classification"):
        check_metrics(["pearson"], 2)
    with pytest.raises(ScoringError, match="accuracy is not defined for a regression"):
        check_metrics(["accuracy"], 1, regression=True)


@pytest.mark.parametrize(("classes", "regression"), [(2, False), (3, False), (1, True)])
def test_applicable_metrics_are_those_that_are_not_refused(classes: int, regression: bool) -> None:
    check_metrics(applicable_metrics(classes, regression), classes, regression)
    assert ("f1" in applicable_metrics(classes, regression)) == (classes == 2)


def test_tokens_by_hand() -> None:
    # two tokens of probability 1/2 and 1/4, of texts of 2 bytes: 1 + 2 bits; sure by 0.5 and right, by 0.7 and wrong
    found = scoring.score_tokens([math.log(2), math.log(4)], [0.5, 0.7], [True, False], 2)
    assert found == pytest.approx({"nll": 1.5 * math.log(2), "bits_per_byte": 1.5, "ece": (0.5 + 0.7) / 2})


def test_tokens_without_a_loss_or_bytes_are_refused() -> None:
    for nll, size in (([], 2), ([1.0], 0), ([math.nan], 2)):
        with pytest.raises(scoring.ScoringError):
            scoring.score_tokens(nll, [0.5] * len(nll), [True] * len(nll), size)


def test_nll_may_be_asked_for_and_bits_per_byte_only_of_texts() -> None:
    logits, labels = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([1, 0])
    assert scoring.score(logits, labels, ["nll", "accuracy"])["nll"] == pytest.approx(
        (math.log1p(math.exp(-1)) + math.log(2)) / 2
    )
    with pytest.raises(scoring.ScoringError, match="bits_per_byte is not defined for a classification"):
        scoring.score(logits, labels, ["bits_per_byte"])
