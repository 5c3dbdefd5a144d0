"""Scores of one model on one split: the task's metrics, and how well its probabilities are calibrated.

Everything is computed from raw logits and labels, in float64. Metrics are fractions (accuracy 0.8 is 80%), with
the definitions of scikit-learn and scipy; calibration is a few lines of NumPy. A score is never NaN: where it is
undefined, it has a documented value or is an error.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax

from kdcache.errors import KdcacheError
from kdcache.study import CLASSIFICATION_METRICS, REGRESSION_METRICS, Metric

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
ECE_BINS = 15


class ScoringError(KdcacheError):
    """Logits or labels cannot be scored, or a metric does not fit the task."""


def score(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    metrics: Sequence[Metric],
    regression: bool = False,
    positive: int = 1,
) -> dict[str, float]:
    """The metrics asked for, then nll, brier and ece (classification) or mse (regression).

    Args:
        logits: [N, K] raw outputs; [N, 1] for a regression.
        labels: [N] classes 0..K-1, or real numbers for a regression.
        metrics: names as in params.yaml.
        regression: whether the label is a real number.
        positive: the class, 0 or 1, that `f1` is of.

    Raises:
        ScoringError: NaN or infinite values, shapes or labels that do not fit, or a metric that is not
            defined for the task (`f1` needs exactly two classes).
    """
    outputs = _outputs(logits)
    check_metrics(metrics, outputs.shape[1], regression)
    if regression:
        return _score_regression(outputs[:, 0], _numbers(labels, len(outputs)), metrics)
    return _score_classes(outputs, checked_classes(labels, *outputs.shape), metrics, positive)


def score_outputs(
    outputs: npt.NDArray[Any], labels: npt.NDArray[Any], metric: Metric, positive: int = 1
) -> float:
    """One metric of outputs whose logits are not at hand: a fraction, as `score` gives it.

    Args:
        outputs: [N] predicted classes, or the real numbers of a regression.
        labels: [N], of the same kind.
        positive: the class, 0 or 1, that `f1` is of.
    """
    if metric in _REGRESSION:
        return _REGRESSION[metric](outputs, labels)
    return f1(outputs, labels, positive) if metric == "f1" else _CLASS_METRICS[metric](outputs, labels)


def check_metrics(metrics: Sequence[Metric], classes: int, regression: bool = False) -> None:
    """Refuse metrics that are not defined for a task of `classes` outputs, before anything is trained.

    Raises:
        ScoringError: naming the metrics and what they need.
    """
    known = REGRESSION_METRICS if regression else CLASSIFICATION_METRICS
    wrong = [metric for metric in metrics if metric not in known]
    if wrong:
        kind = "a regression" if regression else "a classification"
        raise ScoringError(f"metrics: {', '.join(wrong)} is not defined for {kind}")
    if regression and classes != 1:
        raise ScoringError(f"a regression has one output, found {classes}")
    if not regression and classes < 2:
        raise ScoringError(f"a classification has at least 2 classes, found {classes}")
    if "f1" in metrics and classes != 2:
        raise ScoringError(f"metrics: f1 needs exactly 2 classes, found {classes}; use macro_f1")


def applicable_metrics(classes: int, regression: bool = False) -> list[Metric]:
    """Every metric that is defined for a task of `classes` outputs."""
    if regression:
        return ["pearson", "spearman"]
    everywhere: list[Metric] = ["accuracy", "macro_f1", "matthews"]
    return [*everywhere, "f1"] if classes == 2 else everywhere


def accuracy(predictions: Labels, labels: Labels) -> float:
    """The share of rows whose prediction is the label."""
    return float(np.mean(predictions == labels))


def f1(predictions: Labels, labels: Labels, positive: int = 1) -> float:
    """F1 of one class of two (GLUE scores class 1 of MRPC and QQP); 0 if it is neither predicted nor present."""
    right, predicted, present = _counts(predictions, labels)[:, positive]
    return float(2 * right / (predicted + present)) if predicted + present else 0.0


def macro_f1(predictions: Labels, labels: Labels) -> float:
    """The unweighted mean of F1 over the classes that occur in labels or predictions."""
    right, predicted, present = _counts(predictions, labels)
    occurs = predicted + present > 0
    return float(np.mean(2 * right[occurs] / (predicted + present)[occurs]))


def matthews(predictions: Labels, labels: Labels) -> float:
    """Matthews' correlation coefficient; 0 when predictions or labels are constant (no association).

    R_K of Gorodkin 2004: the covariance of predictions and labels, as one-hot vectors, over their spreads.
    """
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    right, predicted, present = _counts(predictions, labels).astype(np.float64)
    rows = len(labels)
    spreads = (rows**2 - predicted @ predicted) * (rows**2 - present @ present)
    return float((right.sum() * rows - predicted @ present) / np.sqrt(spreads))


def _counts(predictions: Labels, labels: Labels) -> Labels:
    """[3, K]: for each class the rows rightly predicted as it, predicted as it, and labelled as it.

    These counts give all of the scores above. scikit-learn takes 70 times as long for the same numbers, mostly to check
    its input, and `compare` scores thousands of trials. Tests check that both give the same.
    """
    classes = max(2, int(predictions.max()) + 1, int(labels.max()) + 1)
    sides = (labels[predictions == labels], predictions, labels)
    return np.stack([np.bincount(side, minlength=classes) for side in sides])


def score_tokens(
    nll: npt.ArrayLike, confidence: npt.ArrayLike, right: npt.ArrayLike, size: int
) -> dict[str, float]:
    """The scores of a language model on documents: nll in nats a token, bits_per_byte, and ece of its first choice.

    bits_per_byte is the total nll, ends of documents included, in bits, divided by the bytes of the texts. Unlike nll,
    it can be compared between tokenizers.

    Args:
        nll: [T] of each predicted token; confidence: [T] the largest probability; right: [T] whether it is the token's.
        size: bytes of the documents' texts.
    """
    losses, sure = np.asarray(nll, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
    if losses.shape != sure.shape or losses.ndim != 1 or not losses.size or size < 1:
        raise ScoringError(
            f"expected values of tokens [T] and their bytes, found {list(losses.shape)} and {size}"
        )
    _refuse_non_finite(losses, "nll")
    return {
        "nll": float(losses.mean()),
        "bits_per_byte": float(losses.sum() / math.log(2) / size),
        "ece": calibration_error(sure, np.asarray(right, dtype=np.bool_)),
    }


def nll(logits: Floats, labels: Labels) -> float:
    """-log softmax(logits)[label], mean over the rows: cross-entropy in nats."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def brier(logits: Floats, labels: Labels) -> float:
    """sum_k (p_k - [k is the label])^2, mean over the rows; 0 to 2 (Brier 1950, the multi-class form)."""
    errors: Floats = softmax(logits, axis=1)
    errors[np.arange(len(labels)), labels] -= 1
    return float((errors**2).sum(axis=1).mean())


def ece(logits: Floats, labels: Labels, bins: int = ECE_BINS) -> float:
    """Expected calibration error: sum_b n_b/N |accuracy_b - confidence_b| (Guo et al. 2017).

    Confidence is the largest probability; the bins ((b-1)/bins, b/bins] are of equal width.
    """
    return calibration_error(softmax(logits, axis=1).max(axis=1), logits.argmax(axis=1) == labels, bins)


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = ECE_BINS) -> float:
    """`ece`, from each row's [N] largest probability and whether that is the label's."""
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(correct))


_CLASS_METRICS: dict[str, Callable[[Labels, Labels], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
}


def _score_classes(
    logits: Floats, labels: Labels, metrics: Sequence[Metric], positive: int
) -> dict[str, float]:
    predictions = logits.argmax(axis=1)
    functions: dict[str, Callable[[Labels, Labels], float]] = {
        **_CLASS_METRICS,
        "f1": partial(f1, positive=positive),
    }
    scores = {metric: functions[metric](predictions, labels) for metric in metrics if metric in functions}
    return scores | {"nll": nll(logits, labels), "brier": brier(logits, labels), "ece": ece(logits, labels)}


def pearson(predictions: Floats, labels: Floats) -> float:
    """Pearson's correlation; 0 when a side is constant or there is one row (no linear association to see)."""
    from scipy.stats import pearsonr  # half a second, which every trial of a classification would wait

    return _correlation(pearsonr, predictions, labels)


def spearman(predictions: Floats, labels: Floats) -> float:
    """Spearman's rank correlation; 0 when a side is constant or there is one row."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


def mse(predictions: Floats, labels: Floats) -> float:
    """The mean squared error, in squared units of the label."""
    return float(((predictions - labels) ** 2).mean())


def _correlation(statistic: Callable[..., Any], predictions: Floats, labels: Floats) -> float:
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy: the input is nearly constant
        value = float(statistic(predictions, labels).statistic)
    return value if np.isfinite(value) else 0.0


_REGRESSION: dict[str, Callable[[Floats, Floats], float]] = {"pearson": pearson, "spearman": spearman}


def _score_regression(predictions: Floats, labels: Floats, metrics: Sequence[Metric]) -> dict[str, float]:
    scores = {metric: _REGRESSION[metric](predictions, labels) for metric in metrics}
    return scores | {"mse": mse(predictions, labels)}


def _outputs(logits: npt.ArrayLike) -> Floats:
    outputs = np.asarray(logits, dtype=np.float64)
    if outputs.ndim != 2 or outputs.size == 0:
        raise ScoringError(f"expected logits of shape [N, K], found {list(outputs.shape)}")
    _refuse_non_finite(outputs, "logits")
    return outputs


def _numbers(labels: npt.ArrayLike, rows: int) -> Floats:
    numbers = np.asarray(labels, dtype=np.float64)
    _check_rows(numbers.shape, rows)
    _refuse_non_finite(numbers, "labels")
    return numbers


def checked_classes(labels: npt.ArrayLike, rows: int, classes: int) -> Labels:
    """Class labels [N] as int64.

    Raises:
        ScoringError: their number is not that of the rows, or they are no integers, or no class numbers.
    """
    given = np.asarray(labels)
    _check_rows(given.shape, rows)
    if not np.issubdtype(given.dtype, np.integer):
        raise ScoringError(f"expected integer class labels, found {given.dtype}")
    wrong = np.flatnonzero((given < 0) | (given >= classes))
    if len(wrong):
        row = int(wrong[0])
        raise ScoringError(
            f"labels: row {row} is {int(given[row])}, outside 0..{classes - 1} ({len(wrong)} such rows)"
        )
    return given.astype(np.int64)


def _check_rows(shape: tuple[int, ...], rows: int) -> None:
    if shape != (rows,):
        raise ScoringError(f"expected {rows} labels, as many as rows of logits, found shape {list(shape)}")


def _refuse_non_finite(values: Floats, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise ScoringError(
            f"{name}: row {int(bad[0])} has a NaN or infinite value ({len(bad)} of {len(values)} rows); "
            "did training diverge?"
        )
