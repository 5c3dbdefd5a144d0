"""Label noise: wrong labels on purpose, in train only, to ask whether a regularizer helps against them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Noisy:
    """Labels [N], and the ascending numbers of the rows whose label is wrong."""

    labels: Labels
    rows: npt.NDArray[np.int64]


def with_noise(labels: Labels, classes: int, fraction: float, seed: int) -> Noisy:
    """Replace the labels of round(fraction * N) rows, drawn without regard to class, by another class.

    Every wrong class is equally likely ("symmetric" noise that never gives the true class). A row that is noisy at
    some fraction is noisy at every larger fraction, with the same wrong label.

    Args:
        labels: [N] classes 0..K-1.
        classes: K, at least 2.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    shifts = rng.integers(1, classes, len(labels))
    rows = np.sort(order[: round(fraction * len(labels))])
    noisy = labels.copy()
    noisy[rows] = (labels[rows] + shifts[rows]) % classes
    return Noisy(noisy, rows)
