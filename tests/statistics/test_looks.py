"""Designs: what is refused, p-values divided by shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kdcache.errors import ComparisonError
from kdcache.statistics import boundaries
from kdcache.statistics.looks import Design
from kdcache.study.looks import shares_of

LOOKS = (5, 10, 20, 40)


@pytest.mark.parametrize(
    ("looks", "spend", "more", "said"),
    [
        ([], "linear", {}, r"the first 2 or more, found \[\]"),
        ([1, 5], "linear", {}, r"the first 2 or more, found \[1, 5\]"),
        ([5, 5], "linear", {}, r"looks must increase.*\[5, 5\]"),
        ([10, 5], "late", {}, r"looks must increase"),
        ([5, 10], [0.5], {}, r"2 looks need as many shares of alpha, found \[0.5\]"),
        ([5, 10], [0.5, 0.0], {}, "every look needs a share"),
        ([5, 10], [float("nan"), 0.5], {}, "every look needs a share"),
        ([5, 10], [0.6, 0.5], {}, r"sum to 1 at most.*1\.1"),
        ([5, 10], "never", {}, "linear, late or a list of shares, found 'never'"),
        ([5, 10], "linear", {"alpha": 0.5}, "alpha must lie between 0 and 0.5"),
        ([5, 10], "linear", {"stop_hopeless": 1.0}, "stop_hopeless must be a chance"),
        ([5, 10], "linear", {"correction": "fdr_bh"}, "fdr_bh does not keep its promise with several looks"),
        ([5, 6, 7, 8, 9, 10], "linear", {}, "6 looks: with more than 5, declare boundaries: exact"),
        ([5, 6], "linear", {"exact": True}, "two or more new seeds at each look"),
    ],
)
def test_what_is_refused(looks: list[int], spend: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ComparisonError, match=said):
        Design.of(looks, spend, **more)


def test_one_look_may_be_corrected_in_any_way_and_exact_boundaries_allow_many_looks() -> None:
    assert Design.of([5], correction="fdr_bh").fixed
    assert not Design.of([5, 7, 10, 14, 20, 28, 40], exact=True).fixed


def test_a_p_value_is_divided_by_its_share() -> None:
    design = Design.of(LOOKS)
    assert design.sequential(1, [0.01, 0.125, 0.5], 2).tolist() == [0.08, 1.0, 1.0]
    assert float(design.sequential(4, 0.02, 1)) == 0.04
    assert design.nominal(3, 0.05, 2) == 0.0125
    assert (design.strictest(4), Design.of(LOOKS, correction="none").strictest(4)) == (0.0125, 0.05)


def test_one_look_leaves_every_p_value_as_it_is() -> None:
    p = np.random.default_rng(0).random(20)
    assert Design.of([9]).sequential(1, p, 2).tolist() == p.tolist()


def test_exact_boundaries_where_they_hold_and_the_split_elsewhere() -> None:
    design, shares = Design.of(LOOKS, exact=True), shares_of("linear", LOOKS)
    assert design.nominal(4, 0.05, 1) == boundaries.nominal(LOOKS, shares, 0.05, 1)[3]
    assert 0.039 > float(design.sequential(4, 0.02, 2)) > 0.02
    assert float(design.sequential(4, 0.02, 2, exact=False)) == 0.04
