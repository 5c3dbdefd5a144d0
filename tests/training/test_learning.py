"""What a training's weights of classes are; the rest of learning is tested with trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kdcache.study import Student
from kdcache.training.learning import class_weights


def model(**changes: Any) -> Student:
    return Student(checkpoint="x", learning_rate=1.0, epochs=1, batch_size=1, **changes)


def test_balanced_weights_let_every_class_count_alike() -> None:
    labels = np.array([0, 0, 0, 0, 0, 1, 2, 2])
    found = class_weights(model(class_weights="balanced"), labels, 3)
    assert found == pytest.approx([8 / 15, 8 / 3, 8 / 6])
    assert np.mean([found[label] for label in labels]) == pytest.approx(1)


def test_a_class_without_rows_has_a_weight_that_nothing_uses() -> None:
    found = class_weights(model(class_weights="balanced"), np.array([0, 0, 2, 2]), 3)
    assert found == pytest.approx([2 / 3, 4 / 3, 2 / 3])


def test_given_weights_are_taken_as_they_are() -> None:
    assert class_weights(model(class_weights=[1, 2.5]), np.array([0, 1]), 2) == [1.0, 2.5]
    assert class_weights(model(), np.array([0, 1]), 2) is None
