"""The bins of a reliability diagram: by hand, and against the ECE that they add up to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.results.schema import ReliabilityRow, columns
from kdcache.statistics.reliability import reliability_bins, reliability_table
from kdcache.tasks.scoring import ece
from tests.statistics.helpers import make_study


def logits_of(*probabilities: float) -> np.ndarray:
    """Two classes, the second with the given probability."""
    p = np.array(probabilities)
    return np.log(np.stack([1 - p, p], axis=1))


def test_bins_by_hand() -> None:
    # sure of class 1 with 0.9, 0.7 and 0.75, of class 0 with 0.95; the bins of a quarter: (.5, .75], (.75, 1]
    blocks = [(logits_of(0.9, 0.7), np.array([1, 0])), (logits_of(0.74, 0.05), np.array([1, 1]))]
    low, high = reliability_bins(blocks, bins=4)
    assert (low["low"], low["high"], low["rows"], low["accuracy"]) == (0.5, 0.75, 2, 0.5)
    assert low["confidence"] == pytest.approx(0.72)
    assert (high["low"], high["high"], high["rows"], high["accuracy"]) == (0.75, 1.0, 2, 0.5)
    assert high["confidence"] == pytest.approx(0.925)


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 10**6))
def test_the_gaps_add_up_to_the_ece(classes: int, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(0, 3, (rows, classes)), random.integers(0, classes, rows)
    cut = rows // 2
    bins = reliability_bins([(logits[:cut], labels[:cut]), (logits[cut:], labels[cut:])])
    gaps = sum(bin_["rows"] * abs(bin_["accuracy"] - bin_["confidence"]) for bin_ in bins)
    assert sum(bin_["rows"] for bin_ in bins) == rows
    assert gaps / rows == pytest.approx(ece(logits, labels), abs=1e-12)


def test_every_configuration_has_its_rows_the_baseline_too() -> None:
    study = make_study(seeds=[0, 1])
    table = reliability_table(study, lambda *_: [(logits_of(0.9), np.array([1]))])
    assert list(table.columns) == columns(ReliabilityRow)
    named = list(table[["task", "student", "regularizer"]].itertuples(index=False, name=None))
    assert named == list(study.configurations())
    assert set(table["rows"]) == {1}
