"""Corrections: by hand, against statsmodels, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from kdcache.errors import ComparisonError
from kdcache.statistics.families import correct, correct_by_family, family_key, level


def test_holm_by_hand() -> None:
    # sorted 0.01 0.02 0.03 0.04 times 4 3 2 1 = 0.04 0.06 0.06 0.04, made monotone: 0.04 0.06 0.06 0.06
    assert correct([0.04, 0.01, 0.03, 0.02], "holm") == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_benjamini_hochberg_by_hand() -> None:
    # sorted 0.01 0.02 0.03 0.50 times 4/1 4/2 4/3 4/4 = 0.04 0.04 0.04 0.5
    assert correct([0.03, 0.5, 0.01, 0.02], "fdr_bh") == pytest.approx([0.04, 0.5, 0.04, 0.04])


def test_bonferroni_and_none_by_hand() -> None:
    assert correct([0.01, 0.4, 0.2], "bonferroni") == pytest.approx([0.03, 1.0, 0.6])
    assert correct([0.01, 0.4], "none").tolist() == [0.01, 0.4]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from(["holm", "bonferroni", "fdr_bh"]))
def test_equal_to_statsmodels(p: list[float], method: str) -> None:
    oracle = multipletests(p, method=method)[1]
    np.testing.assert_allclose(correct(p, method), oracle, rtol=0, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [[0.5, math.nan], [-0.1], [1.1], [[0.5]]])
def test_what_is_no_p_value_is_refused(bad: list[float]) -> None:
    with pytest.raises(ComparisonError, match="p-values must be"):
        correct(bad, "holm")


def test_no_p_values_at_all() -> None:
    assert correct([], "holm").size == 0


def test_families_are_corrected_apart_and_untested_members_count() -> None:
    # family a: 0.02, untested, 0.03 -> Holm over 0.02 0.03 1: 0.06, -, 0.06; family b: 0.04 alone
    found = correct_by_family([0.02, 0.04, None, 0.03], ["a", "b", "a", "a"], "holm")
    assert found[2] is None
    assert [found[0], found[1], found[3]] == pytest.approx([0.06, 0.04, 0.06])


def test_family_keys() -> None:
    assert family_key("student", "rte", "bert") == ("rte", "bert")
    assert family_key("task", "rte", "bert") == ("rte",)
    assert family_key("study", "rte", "bert") == ()


def test_level() -> None:
    assert level(0.05, 4, "holm") == level(0.05, 4, "bonferroni") == level(0.05, 4, "fdr_bh") == 0.0125
    assert level(0.05, 4, "none") == 0.05
    assert level(0.05, 0, "holm") == 0.05
