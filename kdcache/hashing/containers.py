"""The containers in which people keep rows, and what kdcache makes of each.

| given                                                        | taken as                                         |
| ------------------------------------------------------------ | ------------------------------------------------ |
| `datasets.Dataset`                                           | itself                                           |
| table or record batch of Arrow, frame of pandas or polars    | Arrow's columns; a row is made when it is read   |
| list of mappings or tuples, torch data set, or similar       | itself: it has a length, and rows by position    |
| `DatasetDict`, a mapping from names to any of the above      | its splits                                       |
| stream, `LazyFrame`, mapping of columns, file name           | refused, with what to pass                       |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Number
from os import PathLike
from typing import Any

import pyarrow as pa

from kdcache.errors import CacheError
from kdcache.hashing.frames import as_table, is_dataset, kinds_of

TABLES = ("arrow", "pandas", "polars")  # formats in which a data set gives tables, not rows
GIVE = "give a datasets.Dataset, a table of Arrow, pandas or polars, a list of rows, or a torch data set"
INSTEAD = {  # containers that do not give rows by position, and what to do to get rows
    "polars.LazyFrame": "call its collect() first",
    "pandas.Series": "call its to_frame() first",
    "polars.Series": "call its to_frame() first",
    "pyarrow.Dataset": "call its to_table() first",
    "pyarrow.RecordBatchReader": "call its read_all() first",
    "pyarrow.ParquetFile": "call its read() first",
    "datasets.IterableDataset": "a stream has no row ids, so materialise it first",
    "torch.IterableDataset": "a stream has no row ids, so materialise it first",
}


class TableRows:
    """A table's rows as mappings, by position."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return self.table.num_rows  # type: ignore[no-any-return]

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows at once."""
        rows: list[dict[str, Any]] = self.table.take(pa.array(positions, pa.int64())).to_pylist()
        return rows


def by_position(data: Any) -> Any:
    """One split as something with a length and rows by position: a data set without its format, `TableRows`, or `data`.

    Raises:
        CacheError: `data` has no rows by position. The message says what to pass.
    """
    if is_dataset(data):
        return data.with_format(None) if data.format["type"] in TABLES else data
    table = as_table(data)
    if table is not None:
        return TableRows(table)
    check_rows(data)
    return data


def check_rows(data: Any) -> None:
    """Refuse data without rows by position.

    Raises:
        CacheError: the message says what was found and what to pass.
    """
    instead = _instead(data)
    if instead is not None:
        raise CacheError(
            f"rows must have a length and be given by position, found {type(data).__name__}; {instead}"
        )


def instead_of(data: Any) -> str | None:
    """What to do with a well-known container that does not give rows by position; None for anything else."""
    kinds = kinds_of(data)
    return next((instead for kind, instead in INSTEAD.items() if kind in kinds), None)


def _instead(data: Any) -> str | None:
    known = instead_of(data)
    if known is not None:
        return known
    if isinstance(data, str | bytes | PathLike):
        return (
            "read the file first, with datasets.load_dataset, pandas.read_csv or pyarrow.parquet.read_table"
        )
    if isinstance(data, Mapping):
        names = ", ".join(repr(name)[:80] for name in list(data)[:8])
        if has_columns(data):
            return (
                f"of a mapping of columns ({names}) make datasets.Dataset.from_dict(data), or a list of rows"
            )
        return f"choose one split of it ({names}), such as data[{next(iter(data), 'train')!r:.80}]"
    return None if hasattr(data, "__len__") and hasattr(data, "__getitem__") else GIVE


def has_columns(data: Mapping[Any, Any]) -> bool:
    """Whether a mapping leads from columns to values, rather than from splits to rows."""
    return any(_is_column(values) for values in data.values())


def _is_column(values: Any) -> bool:
    if len(getattr(values, "shape", ())) == 1 and not hasattr(values, "columns"):
        return True  # an array, a tensor, or a series
    return isinstance(values, list | tuple) and len(values) > 0 and is_single(values[0])


def is_single(value: Any) -> bool:
    """Whether this is a single value, not a collection of values."""
    return value is None or isinstance(value, str | bytes | Number) or getattr(value, "shape", None) == ()


def are_rows(data: Any) -> bool:
    """Whether data that are neither a table nor a data set are rows of one split, by position, and not batches.

    A list or other sequence holds rows if its first item is a tuple, or a mapping with at least one single value. A
    batch has only lists, arrays or tensors. Other data are rows if they are a torch data set or cannot be iterated.
    """
    kinds = kinds_of(data)
    if isinstance(data, Mapping | str | bytes) or "torch.IterableDataset" in kinds:
        return False
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        return False
    if "torch.Dataset" in kinds or not hasattr(data, "__iter__"):
        return True
    if not len(data):
        return False
    first = data[0]
    return isinstance(first, tuple) or (isinstance(first, Mapping) and any(map(is_single, first.values())))
