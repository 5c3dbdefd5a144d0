"""Scores with weighted rows, for all draws of a bootstrap at once.

A bootstrap draw repeats some rows and drops others: row u counts `weights[r, u]` times in draw r. scikit-learn scores
one draw at a time. Here a matrix of draws is scored by a few matrix products; tests check that the result equals
`kdcache.tasks.scoring` on the repeated rows. Everywhere: weights [R, U] (whole numbers); predictions and labels [U],
classes 0..K-1 or real numbers; the result is [R], a fraction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kdcache.statistics.significance import ROUNDING

Floats: TypeAlias = NDArray[np.float64]
Outputs: TypeAlias = NDArray[Any]  # classes, or real numbers for a regression
Score: TypeAlias = Callable[[Floats, Outputs, Outputs], Floats]  # weights, predictions, labels -> [R]


def repeated(metric: Callable[[Outputs, Outputs], float]) -> Score:
    """A score from any `metric(predictions, labels)`, applied to each draw in turn: slow, but always right."""

    def score(weights: Floats, predictions: Outputs, labels: Outputs) -> Floats:
        times = weights.astype(np.int64)
        return np.array([metric(predictions.repeat(row), labels.repeat(row)) for row in times])

    return score


def accuracy(weights: Floats, predictions: Outputs, labels: Outputs) -> Floats:
    return np.asarray(weights @ (predictions == labels) / weights.sum(axis=1))


def f1(weights: Floats, predictions: Outputs, labels: Outputs) -> Floats:
    """F1 of class 1; 0 if the class is neither predicted nor present."""
    right, predicted, present = _counts(weights, predictions, labels, np.array([1]))
    return _ratio(2 * right, predicted + present)[:, 0]


def macro_f1(weights: Floats, predictions: Outputs, labels: Outputs) -> Floats:
    """The mean F1 over the classes that occur in a draw's labels or predictions."""
    right, predicted, present = _counts(weights, predictions, labels)
    occurring = predicted + present > 0
    return np.asarray(_ratio(2 * right, predicted + present).sum(axis=1) / occurring.sum(axis=1))


def matthews(weights: Floats, predictions: Outputs, labels: Outputs) -> Floats:
    """Matthews correlation (for more than two classes R_K, Gorodkin 2004); 0 if predictions or labels are constant."""
    right, predicted, present = _counts(weights, predictions, labels)
    rows = weights.sum(axis=1)
    covariance = right.sum(axis=1) * rows - (predicted * present).sum(axis=1)
    spread = (rows**2 - (predicted**2).sum(axis=1)) * (rows**2 - (present**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0.0)))


def pearson(weights: Floats, predictions: Outputs, labels: Outputs) -> Floats:
    """Pearson's correlation; 0 if a draw's predictions or labels are constant."""
    # centred on the mean of all rows, so that little is lost to rounding
    x, y = (np.asarray(side, dtype=np.float64) - np.mean(side) for side in (predictions, labels))
    sum_x, sum_y, rows = weights @ x, weights @ y, weights.sum(axis=1)
    xx, yy = (weights @ x**2 - sum_x**2 / rows, weights @ y**2 - sum_y**2 / rows)
    varies = (xx > ROUNDING * rows * np.mean(x**2)) & (yy > ROUNDING * rows * np.mean(y**2))
    return _correlation(np.where(varies, weights @ (x * y) - sum_x * sum_y / rows, 0.0), xx, yy)


def spearman(weights: Floats, predictions: Outputs, labels: Outputs) -> Floats:
    """Pearson's correlation of the ranks within each draw; ties get their mean rank; 0 without variation."""
    middle = (weights.sum(axis=1, keepdims=True) + 1) / 2
    x, y = (_ranks(weights, side) - middle for side in (predictions, labels))
    xy, xx, yy = (np.einsum("ru,ru,ru->r", weights, *pair) for pair in ((x, y), (x, x), (y, y)))
    return _correlation(xy, xx, yy)


def loss(weights: Floats, losses: Outputs, counts: Outputs) -> Floats:
    """The mean loss of rows that each have a sum of losses and its divisor (their tokens, bytes, or 1)."""
    return np.asarray((weights @ losses) / (weights @ counts))


SCORES: dict[str, Score] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "nll": loss,
    "bits_per_byte": loss,
}


def _counts(
    weights: Floats, predictions: Outputs, labels: Outputs, classes: Outputs | None = None
) -> tuple[Floats, Floats, Floats]:
    """For each draw and class, [R, K]: rows rightly predicted as the class, predicted as it, and labelled as it."""
    known = np.union1d(predictions, labels) if classes is None else classes
    predicted, present = (side[:, None] == known for side in (predictions, labels))
    right, guessed, labelled = (
        weights @ part.astype(np.float64) for part in (predicted & present, predicted, present)
    )
    return right, guessed, labelled


def _correlation(xy: Floats, xx: Floats, yy: Floats) -> Floats:
    return np.clip(_ratio(xy, np.sqrt(np.maximum(xx, 0.0) * np.maximum(yy, 0.0))), -1.0, 1.0)


def _ranks(weights: Floats, values: Outputs) -> Floats:
    """The rank of every row in each draw, [R, U]: the number of rows below, plus the middle of the equal ones."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    equal = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(equal, axis=1) - (equal - 1) / 2
    group = np.empty(len(values), dtype=np.int64)
    group[order] = np.cumsum(np.isin(np.arange(len(values)), starts)) - 1
    return np.asarray(middle[:, group])


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below; 0 where below is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
