"""Comparisons of models that learned nothing have no verdict."""

from __future__ import annotations

import pytest

from kdcache.statistics import compare, summarize
from kdcache.statistics.learned import unlearned_seeds, without_unlearned
from kdcache.study import Study
from tests.statistics.helpers import make_study, make_trials

BOTH = [47.3, 47.3, 47.2, 47.3, 47.3]
POINTS = {
    ("a", "tiny", "base"): BOTH,
    ("a", "tiny", "smooth"): [47.3, 47.2, 47.3, 47.3, 47.3],
    ("a", "tiny", "kd"): [80.0, 80.1, 80.2, 80.0, 80.1],
}


def study() -> Study:
    return make_study(["a"], methods=["smooth", "kd"])


def test_equivalent_is_taken_back_where_nobody_learned() -> None:
    trials = make_trials(POINTS)
    before = compare(trials, study()).set_index("regularizer")
    assert list(before["verdict"]) == ["equivalent", "better"]
    after = without_unlearned(compare(trials, study()), trials, study(), {"a": 47.3}).set_index("regularizer")
    assert list(after["verdict"]) == ["inconclusive", "better"]
    assert after["outcome"]["smooth"] == "nothing learned"
    assert after["note"]["smooth"].endswith(
        "no seed of either does better than one answer for every row, 47.3"
    )
    same = [column for column in before.columns if column not in ("verdict", "outcome", "note")]
    assert after[same].equals(before[same])


@pytest.mark.parametrize(("init", "verdict"), [("pretrained", "supported"), ("scratch", "contradicted")])
def test_models_that_learned_nothing_support_no_claim(init: str, verdict: str) -> None:
    points = {name: values for name, values in POINTS.items() if name[2] != "kd"}
    trials, plan = make_trials(points), make_study(["a"], {"tiny": ("tiny", init)})
    compared = compare(trials, plan)
    (claim,) = summarize(trials, plan, comparisons=compared)["claims"]
    assert claim["verdict"] == verdict
    taken_back = without_unlearned(compared, trials, plan, {"a": 47.3})
    (claim,) = summarize(trials, plan, comparisons=taken_back)["claims"]
    assert claim["verdict"] == "inconclusive"


def test_one_seed_that_learned_is_enough_and_so_is_an_unknown_majority() -> None:
    trials = make_trials(POINTS)
    for majorities in ({"a": 47.25}, {"b": 99.0}):
        found = without_unlearned(compare(trials, study()), trials, study(), majorities)
        assert list(found["verdict"]) == ["equivalent", "better"]
    assert unlearned_seeds(trials[trials["regularizer"] == "base"], "accuracy", 47.25) == [2]
