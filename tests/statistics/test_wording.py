"""Numbers and names in words."""

import math

import numpy as np
import pytest

from kdcache.statistics import wording
from kdcache.study import Regularizer
from kdcache.study.metrics import NATS, POINTS


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.25, "+1.25"), (-0.4, "−0.40"), (0.0, "0.00"), (-0.001, "0.00"), (0.004, "0.00"), (None, "–")],
)
def test_a_difference_has_a_sign_unless_it_rounds_to_zero(value: float | None, text: str) -> None:
    assert wording.signed(value) == text


def test_a_number_of_numpy_reads_like_the_same_number_of_python() -> None:
    halves = [step / 200 for step in range(-1000, 1001)]  # every 0.005: where the two round differently
    assert [wording.signed(np.float64(value)) for value in halves] == [
        wording.signed(value) for value in halves
    ]


def test_noise_in_the_last_bits_does_not_reach_a_number() -> None:
    halves = [step / 200 for step in range(-1000, 1001)]
    for noise in (-1e-15, 1e-15):
        assert [wording.signed(value + noise) for value in halves] == [
            wording.signed(value) for value in halves
        ]


def test_missing_numbers_are_dashes_and_never_nan() -> None:
    assert wording.number(math.nan) == wording.p_value(math.nan) == wording.seconds(math.nan) == "–"
    assert wording.interval(math.nan, math.nan) == "no interval"
    assert wording.mean_sd(80.0, math.nan) == "80.0"


@pytest.mark.parametrize(
    ("p", "text"), [(0.0004, "< 0.001"), (0.0, "< 0.001"), (0.0625, "0.062"), (1.0, "1.000")]
)
def test_p_values_have_three_decimals_and_are_never_zero(p: float, text: str) -> None:
    assert wording.p_value(p) == text


@pytest.mark.parametrize(
    ("value", "text"), [(6.04, "6.0 s"), (119.0, "119 s"), (120.0, "2.0 min"), (9000.0, "2.5 h")]
)
def test_seconds_become_minutes_and_hours(value: float, text: str) -> None:
    assert wording.seconds(value) == text


def test_listing_and_counts() -> None:
    assert [wording.listing(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        *("none", "a", "a and b", "a, b and c")
    ]
    assert (wording.count(1, "seed"), wording.count(1200, "trial")) == ("1 seed", "1,200 trials")
    assert (wording.amount(1.0), wording.amount(0.5)) == ("1 point", "0.5 points")
    assert (wording.amount(0.01, NATS), wording.amount(1.0, NATS)) == ("0.01 nats", "1 nat")


def test_numbers_have_the_decimals_of_their_unit() -> None:
    assert (wording.score(79.84, POINTS, 0.61), wording.score(5.1236, NATS, 0.003)) == (
        "79.8 ± 0.6",
        "5.124 ± 0.003",
    )
    assert (wording.gain(0.64, POINTS), wording.gain(-0.01234, NATS)) == ("+0.64", "−0.0123")
    assert wording.gains(-0.1, 0.25, NATS) == "[−0.1000,\N{NO-BREAK SPACE}0.2500]"


def test_a_recipe_says_what_a_regularizer_is() -> None:
    kd = Regularizer(soft_labels="teacher", alpha=0.5, temperature=2, divergence="reverse_kl")
    assert wording.recipe(kd).replace("\N{NO-BREAK SPACE}", " ") == "teacher’s logits, α 0.5, τ 2, reverse kl"
    assert wording.recipe(Regularizer()) == "hard labels only"
    both = Regularizer(soft_labels="teacher", teacher=("big", "small"), alpha=1)
    assert wording.recipe(both).startswith("logits of big and small, ")
    more = Regularizer(soft_labels="teacher", alpha=1, unlabelled="use")
    assert wording.recipe(more).endswith(", unlabelled rows too")
    schedules = {"alpha": {"start": 1.0, "end": 0.0}, "temperature": {"start": 8, "end": 1}}
    annealed = Regularizer(soft_labels="teacher", divergence="dkd", beta=8, **schedules)
    assert wording.recipe(annealed).replace("\N{NO-BREAK SPACE}", " ") == (
        "teacher’s logits, α 1 to 0, τ 8 to 1, β 8, dkd"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0625, "0.0625"),
        (1e-4, "0.0001"),
        (2 / 2**16, "0.00003"),
        (1e-5, "0.00001"),
        (1e-7, "< 0.00001"),
        (None, "–"),
    ],
)
def test_a_p_value_that_is_a_ratio_of_counts_is_never_written_as_zero(value: float | None, text: str) -> None:
    assert wording.exact_p_value(value) == text


def test_what_has_no_interval_says_so() -> None:
    assert wording.with_interval("+0.35 points", wording.interval(-0.1, 0.8)).endswith(
        "points [−0.10,\N{NO-BREAK SPACE}0.80]"
    )
    assert wording.with_interval("+0.35 points", wording.interval(None, None)) == "+0.35 points, no interval"
