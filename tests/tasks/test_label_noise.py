"""Label noise: exact counts, other classes only, nested, and known values."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdcache.tasks.label_noise import with_noise

fractions = st.floats(0, 1, exclude_max=True)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=60),
    st.integers(7, 9),
    fractions,
    fractions,
    st.integers(0, 9),
)
def test_noise(given_labels: list[int], classes: int, one: float, other: float, seed: int) -> None:
    labels = np.array(given_labels, dtype=np.int64)
    before = labels.copy()
    less, more = (with_noise(labels, classes, fraction, seed) for fraction in sorted((one, other)))
    np.testing.assert_array_equal(labels, before)
    for noisy, fraction in zip((less, more), sorted((one, other)), strict=True):
        wrong = [row for row in range(len(labels)) if noisy.labels[row] != labels[row]]
        assert wrong == noisy.rows.tolist()
        assert len(wrong) == round(fraction * len(labels))
        assert all(0 <= label < classes for label in noisy.labels.tolist())
    assert set(less.rows.tolist()) <= set(more.rows.tolist())
    np.testing.assert_array_equal(more.labels[less.rows], less.labels[less.rows])


def test_every_other_class_is_equally_likely() -> None:
    noisy = with_noise(np.full(4000, 2), 5, 0.75, 0)
    counts = np.bincount(noisy.labels, minlength=5)
    assert counts[2] == 1000
    # 3000 labels over 4 classes: 750 each, with a standard deviation of sqrt(3000 * 1/4 * 3/4) = 24
    assert all(abs(count - 750) < 4 * 24 for count in counts[[0, 1, 3, 4]])


def test_rows_do_not_depend_on_the_labels_and_seeds_differ() -> None:
    first = with_noise(np.zeros(100, dtype=np.int64), 2, 0.3, 0)
    assert with_noise(np.ones(100, dtype=np.int64), 2, 0.3, 0).rows.tolist() == first.rows.tolist()
    assert with_noise(np.zeros(100, dtype=np.int64), 2, 0.3, 1).rows.tolist() != first.rows.tolist()


def test_two_classes_are_exchanged() -> None:
    noisy = with_noise(np.array([0, 1, 0, 1]), 2, 0.999, 3)
    assert noisy.labels.tolist() == [1, 0, 1, 0]
