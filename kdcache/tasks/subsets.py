"""Part of a task's train rows: the amount of training data as a parameter (`train_size`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdcache.errors import TaskError

Batches = Callable[[], Iterator[pa.Table]]
Indices = npt.NDArray[np.int64]


def stratified(classes: npt.ArrayLike, size: int, seed: int | tuple[int, ...]) -> Indices:
    """`size` row numbers, ascending, about in the classes' proportions; a larger size contains every smaller one.

    The rows of each class, in random order, are spread evenly over a line from 0 to 1; the first `size` are taken.

    Args:
        classes: [N] the class of each row; all the same for a plain random draw.
        seed: decides which rows; the draw is the same on every machine.
    """
    codes = np.unique(np.asarray(classes), return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(len(codes))
    place = np.empty(len(codes))
    for code in range(codes.max() + 1):
        rows = order[codes[order] == code]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.sort(np.argsort(place, kind="stable")[:size])


def draw(labels: pa.ChunkedArray, size: int, seed: int, regression: bool) -> Indices:
    """The train rows that `train_size` keeps, by label; at random for a regression.

    Raises:
        TaskError: there are fewer rows than asked for.
    """
    if size > len(labels):
        raise TaskError(f"train_size: {size} rows asked for, but train has {len(labels)}")
    codes = np.zeros(len(labels)) if regression else _codes(labels)
    return stratified(codes, size, seed)


def _codes(labels: pa.ChunkedArray) -> Indices:
    encoded = labels.combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def taken(batches: Batches, rows: Indices) -> Batches:
    """The batches, with only these rows (ascending)."""
    return partial(_taken, batches, rows)


def _taken(batches: Batches, rows: Indices) -> Iterator[pa.Table]:
    start = 0
    for batch in batches():
        first, last = np.searchsorted(rows, [start, start + batch.num_rows])
        if last > first:
            yield batch.take(pa.array(rows[first:last] - start))
        start += batch.num_rows
