"""Recognise tables of pandas, polars and datasets by their type alone. Give the first two as Arrow tables."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from kdcache.errors import CacheError


def is_dataset(data: Any) -> bool:
    """Whether this is a `datasets.Dataset`; datasets is not imported."""
    return "datasets.Dataset" in kinds_of(data)


def as_table(data: Any) -> pa.Table | None:
    """A table of Arrow, pandas (without its index) or polars as an Arrow table; None if `data` is not a table.

    Raises:
        CacheError: a column holds values for which Arrow has no type, or is there twice.
    """
    kinds = kinds_of(data)
    if isinstance(data, pa.Table):
        return data
    try:
        if "pandas.DataFrame" in kinds:
            _refuse_twice(data)
            return pa.Table.from_pandas(data, preserve_index=False)
        if "polars.DataFrame" in kinds:
            return data.to_arrow()
        if isinstance(data, pa.RecordBatch):
            return pa.Table.from_batches([data])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise CacheError(
            f"the {type(data).__name__} cannot be read as an Arrow table ({error}); give each column one type"
        ) from None
    return None


def _refuse_twice(frame: Any) -> None:
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise CacheError(f"the DataFrame has the column {twice[0]!r} twice; rename or drop one")


def with_column(data: Any, name: str, values: pa.FixedSizeListArray) -> Any:
    """A copy of the table with one more column, in the table's own library.

    Args:
        data: a table of Arrow, pandas or polars.
        values: [N], lists of K float32.
    """
    kinds = kinds_of(data)
    if "pandas.DataFrame" in kinds:
        rows = values.flatten().to_numpy().reshape(len(values), values.type.list_size)
        return data.assign(**{name: list(rows)})
    if "polars.DataFrame" in kinds:
        import polars

        return data.with_columns(polars.Series(name, polars.from_arrow(values)))
    return (data if isinstance(data, pa.Table) else pa.Table.from_batches([data])).append_column(name, values)


def kinds_of(data: Any) -> set[str]:
    """The names of the data's type and its base classes, with their library, such as `pandas.DataFrame`."""
    return {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(data).mro()}
