"""Scores under row weights: equal to `kdcache.tasks.scoring` on the rows repeated, draw by draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.statistics import weighted
from kdcache.tasks import scoring

CLASSES = {"accuracy": scoring.accuracy, "macro_f1": scoring.macro_f1, "matthews": scoring.matthews}
NUMBERS = {"pearson": scoring.pearson, "spearman": scoring.spearman}


def draws(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Some bootstrap draws, the rows as they are, and draws of one row only."""
    some = rng.multinomial(rows, np.full(rows, 1 / rows), size=6)
    return np.concatenate([some, np.ones((1, rows)), rows * np.eye(rows)[:2]]).astype(float)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(CLASSES)), st.integers(2, 5), st.integers(2, 30), st.integers(0, 999))
def test_classes_equal_scikit_learn(name: str, classes: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    predictions, labels = rng.integers(0, classes, (2, rows))
    weights = draws(rng, rows)
    oracle = weighted.repeated(CLASSES[name])(weights, predictions, labels)
    np.testing.assert_allclose(weighted.SCORES[name](weights, predictions, labels), oracle, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(0, 999))
def test_f1_of_two_classes_equals_scikit_learn(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    predictions, labels = rng.integers(0, 2, (2, rows))
    weights = draws(rng, rows)
    oracle = weighted.repeated(scoring.f1)(weights, predictions, labels)
    np.testing.assert_allclose(weighted.f1(weights, predictions, labels), oracle, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NUMBERS)), st.integers(2, 30), st.integers(0, 999), st.booleans())
def test_correlations_equal_scipy(name: str, rows: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    predictions, labels = rng.normal(3, 1, (2, rows))
    if ties:
        predictions, labels = predictions.round(), labels.round()
    weights = draws(rng, rows)
    oracle = weighted.repeated(NUMBERS[name])(weights, predictions, labels)
    np.testing.assert_allclose(weighted.SCORES[name](weights, predictions, labels), oracle, atol=1e-9)


def test_by_hand() -> None:
    # labels 1 0 1, predictions 1 1 0, rows counting 2 1 0: rows 1/1 1/1 0/1, two of three right,
    # of class 1 two right of three predicted and two present: 2 * 2 / (3 + 2)
    weights, predictions, labels = np.array([[2.0, 1, 0]]), np.array([1, 1, 0]), np.array([1, 0, 1])
    assert weighted.accuracy(weights, predictions, labels) == pytest.approx([2 / 3])
    assert weighted.f1(weights, predictions, labels) == pytest.approx([4 / 5])
    assert weighted.macro_f1(weights, predictions, labels) == pytest.approx([(4 / 5 + 0) / 2])
    assert weighted.matthews(weights, predictions, labels).tolist() == [0.0]  # constant predictions


def test_every_metric_of_a_task_has_a_weighted_version() -> None:
    from typing import get_args

    from kdcache.study import Metric

    metrics: Any = get_args(Metric)
    assert set(weighted.SCORES) == set(metrics)
