"""Seeds, numbers, schedules; what no object of params.yaml may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.study import Regularizer, Schedule, load_study
from tests.study.samples import STUDY, only_mistake, write

ONE = [
    ({"seeds": [True]}, "seeds: true and false are no values here"),
    ({"tasks.news.train_size": 9, "tasks.news.unlabelled": True},
     "tasks.news.unlabelled: true and false are no values here"),
    ({"students.small.learning_rate": float("inf")},
     "students.small.learning_rate: Input should be a finite number"),
    ({"students.small.learning_rate": float("nan")}, "students.small.learning_rate: Input should be"),
    ({"students.small.epochs": True}, "students.small.epochs: true and false are no values here"),
    ({"regularizers.smooth.alpha": True}, "regularizers.smooth.alpha: true and false are no values here"),
    ({"distillers.kd.alpha": {"start": 1.0}}, "distillers.kd.alpha.end: missing"),
    ({"distillers.kd.alpha": {"start": 2, "end": 0}},
     "distillers.kd.alpha.start: Input should be less than or equal to 1, found 2"),
    ({"distillers.kd.alpha": {"start": "high", "end": 0}},
     "distillers.kd.alpha.start: Input should be a valid number, unable to parse string as a number, found 'high'"),
    ({"distillers.kd.alpha": {"start": 0.5, "end": 0.5}},
     "distillers.kd.alpha: start and end are the same; write the number 0.5"),
    ({"distillers.kd.alpha": {"start": 1.0, "end": True}}, "distillers.kd.alpha: true and false are no values"),
    ({"distillers.kd.alpha": [1.0, 0.0]}, "distillers.kd.alpha: Input should be a valid number"),
    ({"distillers.kd.temperature": {"start": 4, "end": 0}},
     "distillers.kd.temperature.end: Input should be greater than 0, found 0"),
    ({"distillers.kd.temperature": {"start": 4, "end": float("inf")}},
     "distillers.kd.temperature.end: Input should be a finite number"),
    ({"distillers.kd.divergence": "mse", "distillers.kd.temperature": {"start": 4, "end": 1}},
     "distillers.kd: temperature has no effect with divergence: mse"),
    ({"regularizers.base": {"alpha": {"start": 1.0, "end": 0.0}}},
     "regularizers.base: without soft_labels or function, alpha has no effect"),
    ({"regularizers.mine": {"function": "m:f", "temperature": {"start": 4, "end": 1}}},
     "regularizers.mine: beside function, temperature has no effect"),
    ({"comparison.alpha": {"start": 0.1, "end": 0.05}}, "comparison.alpha: Input should be a valid number"),
    ({"comparison.margin": {"accuracy": True}}, "comparison.margin: true and false are no values here"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), ONE, ids=[expected[:50] for _, expected in ONE])
def test_a_value_that_is_none(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert only_mistake(tmp_path, changes).startswith(expected)


def test_values_never_change_after_reading(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, STUDY))
    with pytest.raises(ValueError, match="frozen"):
        study.regularizers["smooth"].alpha = 0.2  # type: ignore[misc]


def test_a_schedule_is_written_as_it_was_read() -> None:
    alpha = Regularizer(soft_labels="teacher", alpha={"start": 1.0, "end": 0.2}).alpha
    assert isinstance(alpha, Schedule)
    assert Regularizer(soft_labels="teacher", alpha=alpha).model_dump()["alpha"] == {"start": 1.0, "end": 0.2}
