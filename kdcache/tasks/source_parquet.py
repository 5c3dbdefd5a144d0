"""Rows from Parquet files; features are read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import TaskError
from kdcache.tasks.columns import plain
from kdcache.tasks.rows import Columns, Rows, bounded, check_columns, declared_names, no_labels


def open_parquet(origin: str, path: Path, columns: Columns) -> Rows:
    """
    Raises:
        TaskError: the file cannot be read, has no rows, or lacks a column.
    """
    with _reading(origin):
        schema, count = pq.read_schema(path), pq.read_metadata(path).num_rows
        check_columns(origin, schema.names, columns)
        labels = None if columns.label is None else _checked(pq.read_table(path, columns=[columns.label]))
    if count == 0:
        raise TaskError(f"{origin}: there are no rows")
    batches = partial(_batches, origin, path, columns)
    if labels is None:
        return Rows(no_labels(count), None, batches)
    label = columns.label or ""
    return Rows(plain(labels.column(label)), declared_names(origin, schema, label), batches)


def _batches(origin: str, path: Path, columns: Columns) -> Iterator[pa.Table]:
    with _reading(origin), pq.ParquetFile(path) as file:
        read = file.iter_batches(columns.read_at_once, columns=columns.features)
        yield from bounded((_checked(pa.Table.from_batches([batch])) for batch in read), columns)


def _checked(table: pa.Table) -> pa.Table:
    """Check what Arrow believes of a file: that texts are in UTF-8, and indices within their dictionary."""
    table.validate(full=True)
    return table


@contextmanager
def _reading(origin: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise TaskError(f"{origin}: cannot be read: {' '.join(str(error).split())[:300]}") from None
