"""Stable hashes of a data set's rows, for people whose data are not a prepared task.

A logit cache keeps a hash of every row's content and label, so that logits can only ever meet the row they were
computed from. A prepared task stores these hashes; this module computes the same ones for any other data: a
`datasets.Dataset`, a torch data set, a table or a list of rows. docs/library.md says how to use them.

content.py says what a value adds to the hash, digests.py how the parts are put together. Column names are not part of
it.

What a hash promises: against chance, that two rows differ when their hashes do not agree is as good as certain (at 100
million rows two different ones share a hash with a chance of 3 in 10,000, and that is refused when they are hashed).
Against malice: nobody can make up a row that passes for a given other one (2^64 tries). Who writes both rows can make
two that share a hash (2^32 tries); in one data set they are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdcache.errors import CacheError
from kdcache.hashing.columns import BOOKKEEPING, hash_columns, is_dataset
from kdcache.hashing.content import Column, plain_value, type_name, value_parts
from kdcache.hashing.digests import BLAKE2B, Algorithm, Digests, checked_hashes, digest, short

Row: TypeAlias = Mapping[str, Any] | Sequence[Any]
BATCH = 1000  # rows of a datasets.Dataset or a table that become Python objects at a time


def hash_row(
    row: Row,
    columns: Sequence[Column] | None = None,
    label: Column | None = None,
    algorithm: Algorithm = BLAKE2B,
) -> int:
    """Stable 64-bit hash of one row's content and label.

    A prepared task's row (columns `text` [and `text_pair`], or `image`; label `label`) gets exactly the
    `row_hash` that the task stores. A label that is no number, such as a string, counts as content.

    Args:
        row: a mapping from column to value, or a tuple or list of values.
        columns: the columns to hash, in this order (positions, if the row is a tuple or list). Default: all
            but the label, `id` and `row_hash`, sorted by name.
        label: the label's column; None if the rows have no label.
        algorithm: that of the cache the hash is compared with, see `row_hash`.

    Returns:
        An unsigned 64-bit integer.

    Raises:
        CacheError: a column is not there, or holds a type that has no stable content.
    """
    return short(_row_digest(row, columns, label, algorithm))


def hash_rows(
    dataset: Any,
    columns: Sequence[Column] | None = None,
    label: Column | None = None,
    algorithm: Algorithm = BLAKE2B,
) -> npt.NDArray[np.uint64]:
    """`hash_row` of every row of a data set, in its order; whole columns at a time where the data are Arrow's.

    Args:
        dataset: a `datasets.Dataset` (its format and transforms do not count, only its data), a
            `pyarrow.Table`, or anything with a length and an index. It is read once.
        columns, label, algorithm: as for `hash_row`.

    Returns:
        uint64 [N].

    Raises:
        CacheError: as for `hash_row`, naming the row; or two different rows have one hash.
    """
    digests = hash_columns(dataset, columns, label, algorithm)
    if digests is None:
        digests = _one_by_one(dataset, columns, label, algorithm)
    return checked_hashes(digests)


def _one_by_one(
    dataset: Any, columns: Sequence[Column] | None, label: Column | None, algorithm: Algorithm
) -> Digests:
    digests = bytearray()
    for index, row in enumerate(_rows(dataset, columns, label)):
        try:
            digests += _row_digest(row, columns, label, algorithm)
        except CacheError as error:
            raise CacheError(f"row {index}: {error}") from None
    return np.frombuffer(bytes(digests), "<u8").reshape(-1, 2)


def _row_digest(
    row: Row, columns: Sequence[Column] | None, label: Column | None, algorithm: Algorithm
) -> bytes:
    chosen = _chosen(row, columns, label)
    parts = [part for column in chosen for part in value_parts(_value(row, column), column)]
    if label is None:
        return digest(parts, None, algorithm)
    target = plain_value(_value(row, label))
    if isinstance(target, Real):
        return digest(parts, target, algorithm)  # type: ignore[arg-type]  # an int or a float
    return digest([*parts, b"\0label", *value_parts(target, label)], 0, algorithm)


def _rows(dataset: Any, columns: Sequence[Column] | None, label: Column | None) -> Iterator[Row]:
    if isinstance(dataset, pa.Table):
        for batch in dataset.to_batches(max_chunksize=BATCH):
            yield from batch.to_pylist()
    elif is_dataset(dataset):
        yield from _dataset_rows(dataset.with_format(None), columns, label)
    else:
        for index in range(len(dataset)):  # not iter(): torch data sets need only have an index
            yield dataset[index]


def _dataset_rows(dataset: Any, columns: Sequence[Column] | None, label: Column | None) -> Iterator[Row]:
    if columns is not None:  # decode no column that is not needed
        wanted = {*columns, *([] if label is None else [label])}
        dataset = dataset.select_columns([name for name in dataset.column_names if name in wanted])
    for batch in dataset.iter(BATCH):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _chosen(row: Row, columns: Sequence[Column] | None, label: Column | None) -> Iterable[Column]:
    if isinstance(columns, str):
        raise CacheError(f"columns must be a list of names, found the text {columns!r}; write [{columns!r}]")
    if not isinstance(row, Mapping | list | tuple):
        raise CacheError(f"expected a row (a mapping, tuple or list), found {type_name(row)}")
    if columns is None:
        names: Iterable[Any] = sorted(row) if isinstance(row, Mapping) else range(len(row))
        columns = [name for name in names if name != label and name not in BOOKKEEPING]
    if not columns:
        raise CacheError("the hash would cover no column at all; name the columns that are the row's content")
    return columns


def _value(row: Row, column: Column) -> Any:
    try:
        return row[column]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        there = ", ".join(map(repr, row)) if isinstance(row, Mapping) else f"positions 0 to {len(row) - 1}"
        raise CacheError(f"no column {column!r} in this row; there are: {there}") from None
