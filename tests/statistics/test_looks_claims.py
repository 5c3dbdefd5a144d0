"""Claims over comparisons that stopped at different looks: by hand, and how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kdcache.statistics.looks import Design
from kdcache.statistics.looks_claims import (
    all_equivalent,
    corrected_over_claim,
    interaction_p,
    settle_claim,
    some_better,
    with_claims,
)
from kdcache.statistics.replay import AT_MAXIMUM, Comparison, Outcome, replay

LOOKS = (5, 10, 20, 40)
SEEDS = range(40)
DESIGN = Design.of(LOOKS)


def outcomes(d: np.ndarray) -> tuple[Outcome, ...]:
    """Of one family with differences d [comparisons, seeds]."""
    base = dict.fromkeys(SEEDS, 80.0)
    members = [
        Comparison("news", "tiny", str(place), "accuracy", 1.0, dict(enumerate((80 + row).tolist())), base)
        for place, row in enumerate(d)
    ]
    return replay(DESIGN, members, SEEDS).outcomes


def test_all_equivalent_is_the_largest_q_without_correction() -> None:
    rng = np.random.default_rng(0)
    close = outcomes(0.9 * rng.standard_normal((3, 40)))
    q = [outcome.last.tost_q for outcome in close if outcome.last]
    assert all_equivalent(close, 0.05) == (max(q), True)
    apart = outcomes(np.vstack([rng.standard_normal((2, 40)), 3 + rng.standard_normal((1, 40))]))
    assert not all_equivalent(apart, 0.05)[1]
    untested = Outcome(("news", "tiny", "x"), "not settled yet (look 1 of 4)", 1, 5, "")
    assert all_equivalent([*close, untested], 0.05) == (1.0, False)
    assert all_equivalent([], 0.05) == (1.0, False)


def test_all_equivalent_needs_less_than_every_single_verdict() -> None:
    # if every verdict is `equivalent`, the claim holds: the corrected q are never smaller than the q
    for seed in range(20):
        found = outcomes(np.random.default_rng(seed).normal(0, 1.2, (3, 40)))
        if all(outcome.verdict == "equivalent" for outcome in found):
            assert all_equivalent(found, 0.05)[1]


def test_all_equivalent_is_rarely_wrong() -> None:
    # one true difference at the margin: at most 5%, here of 400 families
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(400):
        d = rng.standard_normal((2, 40))
        d[0] += 1.0
        wrong += all_equivalent(outcomes(d), 0.05)[1]
    assert wrong <= stats.binom.ppf(0.999, 400, 0.05)


def test_some_better_corrects_over_the_claim_at_whatever_look_each_stopped() -> None:
    d = np.random.default_rng(2).normal(0, 1, (3, 40)) + np.array([[2.0], [-2.0], [0.0]])
    found = outcomes(d)
    assert [outcome.look for outcome in found][2] > found[0].look
    assert some_better(found, DESIGN) == [("news", "tiny", "0")]  # the second is worse
    assert some_better(found[1:], DESIGN) == []


def test_other_p_values_are_divided_by_the_share_of_their_look() -> None:
    # q = 0.01 * 8, 0.004 * 2 and 1: Holm by hand
    assert corrected_over_claim(DESIGN, [0.01, 0.004, None], [1, 4, 2], 2) == pytest.approx(
        [0.16, 0.024, 1.0]
    )


def test_a_claim_of_its_own_stops_at_the_first_look_that_shows_it() -> None:
    supported = settle_claim(DESIGN, [0.01, 0.006, 0.9, 0.9])
    assert (supported.verdict, supported.look, supported.seeds) == ("supported", 2, 10)
    assert (supported.p, supported.q) == (0.006, 0.048)
    assert settle_claim(DESIGN, [0.01, 0.006, None, None]) == supported  # later trials take nothing back
    waits = settle_claim(DESIGN, [0.01, None])
    assert (waits.verdict, waits.seeds, waits.q) == ("not settled yet (look 2 of 4)", 10, 0.08)
    assert (waits.settled, supported.settled) == (False, True)
    assert settle_claim(DESIGN, []).verdict == "not settled yet (look 1 of 4)"
    assert settle_claim(DESIGN, [0.5] * 4).verdict == AT_MAXIMUM
    fixed = settle_claim(Design.of([5]), [0.05])
    assert (fixed.verdict, fixed.q) == ("supported", 0.05)


def test_the_interaction_at_every_look_for_which_all_trials_are_there() -> None:
    rng = np.random.default_rng(3)
    scratch, pretrained = (dict(enumerate(rng.normal(mean, 1, 20).tolist())) for mean in (1.0, 0.0))
    found = interaction_p(DESIGN, scratch, pretrained, SEEDS)
    d = np.array(list(scratch.values())) - np.array(list(pretrained.values()))
    by_scipy = [stats.ttest_1samp(d[:n], 0, alternative="greater").pvalue for n in (5, 10, 20)]
    assert found == pytest.approx(by_scipy)
    scratch[2] = math.nan  # failed: left out
    one_less = interaction_p(DESIGN, scratch, pretrained, SEEDS)[0]
    assert one_less == pytest.approx(stats.ttest_1samp(np.delete(d[:5], 2), 0, alternative="greater").pvalue)
    assert interaction_p(DESIGN, dict.fromkeys(range(5), math.nan), pretrained, SEEDS) == [1.0]


def test_a_configuration_goes_on_while_a_claim_that_uses_it_is_open() -> None:
    a, b, c = (("news", "tiny", name) for name in "abc")
    needed = {a: 5, b: 20, c: 40}
    assert with_claims(needed, [(settle_claim(DESIGN, [0.9]), [a, b])]) == {a: 10, b: 20, c: 40}
    assert with_claims(needed, [(settle_claim(DESIGN, [0.001]), [a, b])]) == needed
