"""Which settings are tried: each once, as many as the budget says, and the same ones again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kdcache.engine.tuning.search import Tried, best, known_settings, search
from kdcache.study.tuning import Setting, Tuning

SPACE: dict[str, Any] = {
    "all": {"learning_rate": [0.1, 0.2, 0.4], "epochs": [1, 2]},
    "kd": {"alpha": [0.1, 0.5, 0.9], "temperature": [4, 1, 2]},
}


def tuning(**changes: Any) -> Tuning:
    return Tuning.model_validate({"seeds": [7], "budget": 6, "space": SPACE, **changes})


def peak(settings: Sequence[Setting]) -> list[list[float]]:
    """A score that is best at alpha 0.5, epochs 2 and temperature 4."""
    return [
        [-((one["alpha"] - 0.5) ** 2) - (one["epochs"] - 2) ** 2 - (one["temperature"] - 4) ** 2]
        for one in settings
    ]


def test_a_space_of_the_budget_is_tried_whole_in_its_order() -> None:
    expected = [{"learning_rate": rate, "epochs": epochs} for rate in (0.1, 0.2, 0.4) for epochs in (1, 2)]
    assert known_settings(tuning(), "base") == expected


@pytest.mark.parametrize("sampler", ["qmc", "tpe"])
@pytest.mark.parametrize("budget", [6, 53])  # 53 of 54 points: nearly all that is proposed has been tried
def test_settings_of_a_larger_space_differ_and_are_the_same_again(sampler: str, budget: int) -> None:
    of = tuning(sampler=sampler, budget=budget)
    tried = search(of, "kd", peak)
    assert len({tuple(one.setting.values()) for one in tried}) == budget
    values = of.values("kd")
    assert all(one.setting[key] in values[key] for one in tried for key in values)
    assert search(of, "kd", peak) == tried
    assert search(of.model_copy(update={"seed": 1}), "kd", peak) != tried


def test_only_tpe_depends_on_the_scores() -> None:
    def opposite(settings: Sequence[Setting]) -> list[list[float]]:
        return [[-score for score in scores] for scores in peak(settings)]

    def settings(sampler: str, attempt: Any) -> list[Setting]:
        return [one.setting for one in search(tuning(sampler=sampler, budget=20), "kd", attempt)]

    assert settings("qmc", peak) == settings("qmc", opposite) == known_settings(tuning(budget=20), "kd")
    assert settings("tpe", peak) != settings("tpe", opposite)
    assert known_settings(tuning(sampler="tpe", budget=20), "kd") is None


def test_the_first_of_the_best_is_chosen() -> None:
    tried = [Tried({"alpha": alpha}, scores) for alpha, scores in ((0.1, (0.7, 0.8)), (0.5, (0.79, 0.81)),
                                                                   (0.9, (0.8, 0.8)))]  # fmt: skip
    assert best(tried, lower=False) == 1  # 0.79 + 0.81 rounds to less than 0.8 + 0.8, or to more
    assert best(tried, lower=True) == 0
