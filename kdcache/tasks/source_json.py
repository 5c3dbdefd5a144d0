"""Rows from JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdcache.errors import TaskError
from kdcache.system.files import each_key_once
from kdcache.tasks.rows import Columns, check_columns
from kdcache.tasks.text_files import open_text

# Kinds of values, which may not stand in one column if their names here differ.
NUMBERS = {int: "integers", float: "floats", bool: "true/false"}  # of images: 1 is black, 1.0 white
TRUTHS = {int: "numbers", float: "numbers", bool: "true/false"}


def read_json_lines(origin: str, path: Path, columns: Columns) -> pa.Table:
    """Read the columns that are asked for.

    A key that some lines lack gives missing values. A key that all lines lack is a missing column.

    Raises:
        TaskError: a line is no JSON object or has a key twice, or a column has values of several types, or an integer
            that is too large.
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
    for column, items in values.items():
        _refuse_mixture(f"{origin}: column {column!r}", items, NUMBERS if column == columns.image else TRUTHS)
    return pa.table({column: _column(origin, column, items) for column, items in values.items()})


def _parse_line(origin: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=each_key_once)
    except RecursionError:
        raise TaskError(f"{origin}: is nested too deep to be read") from None
    except ValueError as error:
        raise TaskError(f"{origin}: is not JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise TaskError(f"{origin}: expected one JSON object a line, found {type(row).__name__}")
    return row


def _refuse_mixture(context: str, values: list[Any], apart: dict[type, str]) -> None:
    """Refuse kinds of numbers that Arrow would turn into one another, so that one row changes what another means.

    Args:
        apart: the name of each kind; kinds of the same name may stand beside each other.
    """
    first: dict[str, int] = {}
    for row, value in enumerate(values):
        for kind in _kinds(value) & apart.keys():
            first.setdefault(apart[kind], row)
    if len(first) > 1:
        found = " and ".join(f"{name} (first in row {row})" for name, row in sorted(first.items()))
        raise TaskError(f"{context} mixes {found}; write every value as one of them")


def _kinds(value: Any) -> set[type]:
    """The types of a value, or of those in a list at any depth."""
    if not isinstance(value, list):
        return {type(value)}
    return set().union(*(map(type, items) for items in _lists(value)))


def _lists(value: list[Any]) -> Iterator[list[Any]]:
    """A list and those in it, at any depth. (Without recursion: JSON may be deeper than Python's stack.)"""
    waiting = [value]
    while waiting:
        items = waiting.pop()
        yield items
        waiting += [item for item in items if isinstance(item, list)]


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
        large = _row_of_large(values)
        if large is not None:
            raise TaskError(
                f"{origin}: column {column!r} has an integer in row {large} that is too large to be kept exactly; use "
                "numbers within 2**53, or texts"
            ) from None
        raise TaskError(f"{origin}: column {column!r} mixes types: {str(error)[:200]}") from None


def _row_of_large(values: list[Any]) -> int | None:
    """The first row with an integer that int64 cannot hold, or a double if there are floats; None if there is none."""
    most = 2**53 if float in _kinds(values) else 2**63 - 1
    return next((row for row, value in enumerate(values) if _largest(value) > most), None)


def _largest(value: Any) -> int:
    """The largest size of an integer in a value, or in a list at any depth; 0 if there is none."""
    values = chain.from_iterable(_lists(value)) if isinstance(value, list) else [value]
    return max((abs(item) for item in values if isinstance(item, int)), default=0)


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
