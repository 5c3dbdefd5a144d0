"""The digests of tables and of `datasets.Dataset`s: whole columns at a time, as Arrow holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdcache.errors import CacheError
from kdcache.hashing.content import Column, type_name
from kdcache.hashing.digests import Algorithm, Digests, digests_of
from kdcache.hashing.encoded import RowError, Values, canonical_rows
from kdcache.hashing.frames import as_table, is_dataset

Named: TypeAlias = tuple[Column, Values]
Chunk: TypeAlias = tuple[list[Named], Named | None]  # some rows: columns that the hash covers, and the label
BOOKKEEPING = ("id", "row_hash")  # columns that say something about the row: `row_hash`, and `id` beside it
ROWS_AT_ONCE, BYTES_AT_ONCE = 4096, 32 << 20  # the bytes are approximate


def hash_columns(
    dataset: Any, columns: Sequence[Column] | None, label: Column | None, algorithm: Algorithm
) -> Digests | None:
    """The digests [N, 2] of the rows of a table (Arrow, pandas, polars) or a `datasets.Dataset`; None for other data.

    Raises:
        CacheError: a column is missing, or a value has no stable content (the message names the row).
    """
    table = as_table(dataset)
    if table is not None:
        return hash_chunks(_of_table(table, columns, label), algorithm)
    if is_dataset(dataset):
        return _of_stored_rows(dataset, columns, label, algorithm)
    return None


def hash_chunks(chunks: Iterable[Chunk], algorithm: Algorithm) -> Digests:
    """The digests of rows that come in chunks.

    Raises:
        RowError: a row cannot be hashed. Its number counts from the first row of all chunks. (A chunk's own RowError
            counts from the chunk's first row.)
    """
    parts, done = [np.empty((0, 2), np.uint64)], 0
    try:
        for chunk in chunks:
            parts.append(digests_of(canonical_rows(*chunk), algorithm))
            done += len(parts[-1])
    except RowError as error:
        raise RowError(done + error.row, str(error)) from None
    return np.concatenate(parts)


def _of_table(table: pa.Table, columns: Sequence[Column] | None, label: Column | None) -> Iterator[Chunk]:
    names = _present_columns(table.column_names, columns, label)
    twice = [name for name in [*names, *listed(label)] if table.column_names.count(name) > 1]
    if twice:
        raise CacheError(f"there are two columns {twice[0]!r}; rename one")
    table = table.select([str(name) for name in dict.fromkeys([*names, *listed(label)])])
    for batch in table.to_batches(max_chunksize=rows_at_once(table.nbytes, table.num_rows)):
        yield chosen(dict(zip(batch.schema.names, batch.columns, strict=True)), names, label)


def _of_stored_rows(
    dataset: Any, columns: Sequence[Column] | None, label: Column | None, algorithm: Algorithm
) -> Digests:
    """The digests of a data set's rows in its order.

    A shuffled or filtered data set is a storage plus the row numbers it takes from there. Fetching rows by number is
    slow, so the rows are hashed once each in the order of storage, and the digests are then reordered.
    """
    names = _present_columns(dataset.column_names, columns, label)
    needed = list(dict.fromkeys([*names, *listed(label)]))
    numbers = getattr(dataset, "_indices", None)
    if numbers is None or not all(_is_stored(dataset.features[name]) for name in needed):
        return hash_chunks((chosen(values, names, label) for values in _values(dataset, needed)), algorithm)
    distinct, positions = np.unique(numbers.column(0).to_numpy(), return_inverse=True)
    parts = (chosen(values, names, label) for values in _stored_values(dataset.data, distinct, needed))
    try:
        return hash_chunks(parts, algorithm)[positions]
    except RowError as error:
        raise RowError(int(np.argmax(positions == error.row)), str(error)) from None


def _stored_values(
    storage: Any, numbers: npt.NDArray[np.int64], names: Sequence[Column]
) -> Iterator[dict[Column, Values]]:
    """The values of some rows of the storage; `numbers` must be ascending."""
    size = rows_at_once(storage.nbytes, storage.num_rows)
    borders = np.flatnonzero(np.diff(numbers // size)) + 1
    for some in np.split(numbers, borders):
        start = int(some[0]) // size * size if len(some) else 0
        block = storage.slice(start, size)
        positions = pa.array(some - start)
        yield {name: block.column(name).combine_chunks().take(positions) for name in names}


def _values(dataset: Any, names: Sequence[Column]) -> Iterator[dict[Column, Values]]:
    """A data set's columns in chunks: as Arrow if stored as plain values. `datasets` decodes the others (images)."""
    stored = [name for name in names if _is_stored(dataset.features[name])]
    decoded = [name for name in names if name not in stored]
    size = rows_at_once(dataset.data.nbytes, dataset.data.num_rows)
    parts: list[Iterable[dict[Column, Values]]] = []
    if stored:
        tables = dataset.select_columns(stored).with_format("arrow").iter(size)
        parts.append({name: table[name].combine_chunks() for name in stored} for table in tables)
    if decoded:
        parts.append(dataset.select_columns(decoded).with_format(None).iter(size))
    for some in zip(*parts, strict=True):
        yield {name: values for part in some for name, values in part.items()}


def _is_stored(feature: Any) -> bool:
    """Whether `datasets` returns a feature's values as Arrow stores them: plain values, and lists of them."""
    inner = getattr(feature, "feature", feature)  # a list's items have a feature of their own
    return type(inner).__name__ in ("Value", "ClassLabel")


def rows_at_once(size: int, rows: int) -> int:
    return max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE * rows // max(size, 1)))


def chosen(values: Mapping[Any, Values], columns: Sequence[Column], label: Column | None) -> Chunk:
    for name in [*columns, *listed(label)]:
        if name not in values:
            raise CacheError(no_column(name, list(values)))
    return [(name, values[name]) for name in columns], None if label is None else (label, values[label])


def content_columns(
    names: Iterable[Any], columns: Sequence[Column] | None, label: Column | None
) -> Sequence[Column]:
    """The columns that the hash covers, out of `names`.

    Only a list or a tuple may name them. A set has another order in another process, and an iterator is empty when it
    is read again. So rows would get the hashes of other columns.
    """
    if isinstance(columns, str):
        raise CacheError(f"columns must be a list of names, found the text {columns!r}; write [{columns!r}]")
    if columns is not None and not isinstance(columns, list | tuple):
        raise CacheError(
            f"columns must be a list or tuple of names, found {type_name(columns)}; write the names in a list, in the "
            "order in which the hash takes them"
        )
    if columns is None:
        names = list(names)
        ours = BOOKKEEPING if "row_hash" in names else ()
        content = [name for name in names if name != label and name not in ours]
        columns = sorted(content, key=lambda name: (isinstance(name, str), name))
    if not columns:
        raise CacheError("the hash would cover no column at all; name the columns that are the row's content")
    return columns


def _present_columns(
    names: Sequence[str], columns: Sequence[Column] | None, label: Column | None
) -> Sequence[Column]:
    """The columns that the hash covers. They and the label must be among `names`."""
    content = content_columns(names, columns, label)
    for name in [*content, *listed(label)]:
        if name not in names:
            raise CacheError(no_column(name, names))
    return content


def no_column(name: Column, names: Iterable[Any]) -> str:
    if isinstance(names, range):
        return f"no column {name!r}; there are: positions 0 to {len(names) - 1}"
    return f"no column {name!r}; there are: {', '.join(map(repr, names))}"


def listed(label: Column | None) -> list[Column]:
    return [] if label is None else [label]
