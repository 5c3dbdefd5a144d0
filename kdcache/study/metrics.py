"""Metrics: their names, which tasks can have them, and how each is judged: its unit, and whether less is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Metric: TypeAlias = Literal[
    "accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman", "nll", "bits_per_byte"
]
CLASSIFICATION_METRICS = ("accuracy", "f1", "macro_f1", "matthews", "nll")
REGRESSION_METRICS = ("pearson", "spearman")
LANGUAGE_METRICS = ("nll", "bits_per_byte")
LOSSES = ("nll", "bits_per_byte")  # means over rows, or over the tokens of documents; less is better
LOWER_IS_BETTER = frozenset((*LOSSES, "brier", "ece", "mse"))


@dataclass(frozen=True)
class Unit:
    """How a metric's values are judged and written.

    Args:
        singular, plural: its name, "point" and "points".
        size: how many units a value of 1 is.
        sign: 1 where more is better, -1 where less is.
        digits: decimals of a value; differences have one more.
    """

    singular: str
    plural: str
    size: float
    sign: int
    digits: int

    @property
    def gained(self) -> str:
        """The words for a difference, for an axis: "points gained", "nats better"."""
        return f"{self.plural} gained" if self.sign > 0 else f"{self.plural} better"

    def worth(self, value: float) -> float:
        """A metric's value in this unit, turned so that more is better: differences of it are gains."""
        return self.sign * self.size * value

    def shown(self, worth: float) -> float:
        """The value in this unit as it is shown: an nll of 5.1 is 5.1, not -5.1."""
        return self.sign * worth


POINTS = Unit("point", "points", 100.0, 1, 1)
NATS = Unit("nat", "nats", 1.0, -1, 3)
BITS = Unit("bit a byte", "bits a byte", 1.0, -1, 3)


def unit_of(metric: str) -> Unit:
    """The unit in which a metric is judged: points for a fraction or a correlation, otherwise nats or bits."""
    return {"nll": NATS, "bits_per_byte": BITS}.get(metric, POINTS)
