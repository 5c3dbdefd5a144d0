"""Stable hashes of a data set's rows, for people whose data are not a prepared task.

A logit cache keeps a hash of every row's content and label. So logits can only ever meet the row that they were
computed from. A prepared task stores these hashes. This module computes the same hashes for any other data: a
`datasets.Dataset`, a torch data set, a table or a list of rows. docs/library.md says how to use them.

content.py says what a value adds to the hash, and digests.py how the parts are joined. Column names do not count.

What a hash promises. By chance, two different rows almost never share a hash (among 100 million rows, with a
probability of 3 in 10,000). If they do, they are refused when the rows are hashed. An attacker cannot make up a row
that passes for a given other row (it takes 2^64 tries). Somebody who writes both rows can make two that share a hash
(2^32 tries). Within one data set they are refused.

All this is about rows whose columns have the same types. Images and uint8 arrays have a shape for a mark, without a
zero byte. So a row with an array and then a text shares its hash with a row that has these bytes as a text and then an
array, and the two pass for the same content. Where strangers write the rows, check the columns' types first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError
from kdcache.hashing.columns import (
    Chunk,
    chosen,
    content_columns,
    hash_chunks,
    hash_columns,
    listed,
    no_column,
    rows_at_once,
)
from kdcache.hashing.containers import check_rows
from kdcache.hashing.content import Column, type_name, value_parts
from kdcache.hashing.digests import (
    BLAKE2B,
    Algorithm,
    checked_hashes,
    digest_of,
    row_hash,
    short,
    with_lengths,
)
from kdcache.hashing.encoded import RowError, canonical_rows, label_ending

Row: TypeAlias = Mapping[str, Any] | Sequence[Any]


def hash_row(
    row: Row,
    columns: Sequence[Column] | None = None,
    label: Column | None = None,
    algorithm: Algorithm = BLAKE2B,
) -> int:
    """Stable 64-bit hash of one row's content and label.

    A prepared task's row (columns `text` [and `text_pair`], or `image`; label `label`) gets exactly the
    `row_hash` that the task stores. A label that is not a number, such as a string, counts as content.

    Args:
        row: a mapping from column to value, or a tuple or list of values.
        columns: the columns to hash, in this order (positions, if the row is a tuple or list). Default: all but the
            label, sorted by name. If the row has a `row_hash`, that and the row's `id` are left out too.
        label: the label's column; None if the rows have no label.
        algorithm: the algorithm of the cache with which the hash is compared.

    Returns:
        An unsigned 64-bit integer.

    Raises:
        CacheError: a column is missing, or holds a type that has no stable content.
    """
    parts = [
        part
        for column in _row_columns(row, columns, label)
        for part in value_parts(_value(row, column), column)
    ]
    if label is None:
        return row_hash(parts, None, algorithm)
    return short(digest_of(with_lengths(parts) + label_ending(_value(row, label), label), algorithm))


def hash_rows(
    dataset: Any,
    columns: Sequence[Column] | None = None,
    label: Column | None = None,
    algorithm: Algorithm = BLAKE2B,
) -> npt.NDArray[np.uint64]:
    """`hash_row` of every row of a data set, in its order.

    Args:
        dataset: a `datasets.Dataset` (its format and transforms do not count, only its data), a table of Arrow, pandas
            or polars, or anything with a length and an index. It is read once.
        columns, label, algorithm: as for `hash_row`.

    Returns:
        uint64 [N].

    Raises:
        CacheError: as for `hash_row`, and the message names the row; two different rows share a hash; or `dataset` has
            no rows by position.
    """
    try:
        digests = hash_columns(dataset, columns, label, algorithm)
        if digests is None:
            check_rows(dataset)
            digests = hash_chunks(_chunks(dataset, columns, label), algorithm)
    except RowError as error:
        raise CacheError(f"row {error.row}: {error}") from None
    return checked_hashes(digests)


def hash_batch(
    batch: Mapping[Any, Any],
    columns: Sequence[Column] | None,
    label: Column | None,
    algorithm: Algorithm = BLAKE2B,
) -> npt.NDArray[np.uint64]:
    """`hash_row` of every row of a batch.

    Args:
        batch: maps each column to its n values, one for each row, as a list, array or tensor.
        columns, label, algorithm: as for `hash_row`.

    Returns:
        uint64 [n].

    Raises:
        CacheError: as for `hash_row`, and the message names the row; or the columns have different lengths.
    """
    names = content_columns(batch, columns, label)
    values = {name: _listed_values(batch[name], name) for name in [*names, *listed(label)] if name in batch}
    lengths = {str(name): len(column) for name, column in values.items()}
    if len(set(lengths.values())) > 1:
        raise CacheError(f"the batch's columns have different lengths: {lengths}")
    try:
        return hash_chunks([chosen(values, names, label)], algorithm)[:, 0].copy()
    except RowError as error:
        raise CacheError(f"row {error.row}: {error}") from None


def _listed_values(values: Any, column: Column) -> Sequence[Any]:
    """A column's values, one for each row. A one-dimensional array or tensor becomes Python numbers."""
    if len(getattr(values, "shape", ())) == 1:
        values = values.tolist()
    single = isinstance(values, str | bytes) or getattr(values, "shape", None) == ()
    if single or not isinstance(values, Iterable):
        raise CacheError(
            f"column {column!r} of the batch holds {type_name(values)}, expected one value a row"
        )
    return list(values)


def _chunks(dataset: Any, columns: Sequence[Column] | None, label: Column | None) -> Iterator[Chunk]:
    start, size = 0, 1  # the first row alone: it shows how many rows fit
    while start < len(dataset):  # not iter(): a torch data set may have only an index
        rows = [dataset[index] for index in range(start, min(start + size, len(dataset)))]
        for chunk in _of_python(rows, columns, label):
            yield chunk
            if size == 1:
                size = rows_at_once(len(canonical_rows(*chunk)[0]), 1)
        start += len(rows)


def _of_python(
    rows: Sequence[Row], columns: Sequence[Column] | None, label: Column | None
) -> Iterator[Chunk]:
    """Chunks of rows. Consecutive rows with the same columns share a chunk."""
    start = 0
    while start < len(rows):
        names = _row_columns(rows[start], columns, label)
        stop = start + 1
        while stop < len(rows) and _is_like(rows[stop], rows[start], columns):
            stop += 1
        alike = rows[start:stop]
        yield chosen({name: _values(alike, name) for name in [*names, *listed(label)]}, names, label)
        start = stop


def _is_like(row: Row, first: Row, columns: Sequence[Column] | None) -> bool:
    """Whether the hash covers the same columns of a row as of `first`, which is known to be a row."""
    if columns is not None:
        return isinstance(row, Mapping | list | tuple)
    if isinstance(first, Mapping):
        return isinstance(row, Mapping) and row.keys() == first.keys()
    return isinstance(row, list | tuple) and len(row) == len(first)


def _row_columns(row: Row, columns: Sequence[Column] | None, label: Column | None) -> Sequence[Column]:
    if not isinstance(row, Mapping | list | tuple):
        raise RowError(0, f"expected a row (a mapping, tuple or list), found {type_name(row)}")
    try:
        return content_columns(row if isinstance(row, Mapping) else range(len(row)), columns, label)
    except CacheError as error:
        raise RowError(0, str(error)) from None


def _values(rows: Sequence[Row], column: Column) -> list[Any]:
    try:
        return [row[column] for row in rows]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        return [_value(row, column, number) for number, row in enumerate(rows)]


def _value(row: Row, column: Column, number: int = 0) -> Any:
    try:
        return row[column]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        names = list(row) if isinstance(row, Mapping) else range(len(row))
        raise RowError(number, no_column(column, names)) from None
