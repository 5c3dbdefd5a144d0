"""Rows from JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdcache.errors import TaskError
from kdcache.tasks.columns import shown
from kdcache.tasks.rows import Columns, check_columns
from kdcache.tasks.text_files import open_text


def read_json_lines(origin: str, path: Path, columns: Columns) -> pa.Table:
    """Read the columns that are asked for.

    A key that some lines lack gives missing values. A key that all lines lack is a missing column.

    Raises:
        TaskError: a line is no JSON object or has a key twice, or a column has values of several types.
    """
    values: dict[str, list[Any]] = {column: [] for column in columns.all}
    keys: dict[str, None] = {}
    with open_text(origin, path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = _parse_line(f"{origin}, line {number}", line)
                keys.update(dict.fromkeys(row))
                for column in values:
                    values[column].append(row.get(column))
    if not keys:
        raise TaskError(f"{origin}: there are no rows")
    check_columns(origin, list(keys), columns)
    return pa.table({column: _column(origin, column, items) for column, items in values.items()})


def _parse_line(origin: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_object)
    except RecursionError:
        raise TaskError(f"{origin}: is nested too deep to be read") from None
    except ValueError as error:
        raise TaskError(f"{origin}: is not JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise TaskError(f"{origin}: expected one JSON object a line, found {type(row).__name__}")
    return row


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return row


def _column(origin: str, column: str, values: list[Any]) -> pa.ChunkedArray:
    try:
        return pa.chunked_array(pa.array(values))
    except UnicodeEncodeError:
        row = next(row for row, value in enumerate(values) if not _is_unicode(value))
        raise TaskError(
            f"{origin}: column {column!r} has half of a surrogate pair in row {row} (\\ud800 to \\udfff alone), "
            "which is no character; mend or remove it"
        ) from None
    except (pa.ArrowException, OverflowError) as error:
        raise TaskError(f"{origin}: column {column!r} mixes types: {str(error)[:200]}") from None


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
