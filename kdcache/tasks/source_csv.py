"""Rows from CSV files, by Python's own reader.

Arrow's reader is faster, but it loses a line feed if a CRLF inside quotes lies across two of its blocks. It also
refuses a long text after the first, and guesses types, so that "0" and "00" become one label.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kdcache.errors import TaskError
from kdcache.tasks.columns import row_numbers, shown
from kdcache.tasks.rows import BATCH, Columns, check_columns
from kdcache.tasks.text_files import open_text

LONGEST_FIELD = 1 << 28  # characters; a longer field is taken for a quote that is never closed
LINE_END = re.compile(r"\r\n|\r|\n")


def read_csv(origin: str, path: Path, columns: Columns) -> pa.Table:
    """Read the columns that are asked for, as texts. An empty label counts as missing; scores are numbers.

    Fields are separated by commas and quoted by double quotes, which are doubled inside; the first line has the names.

    Raises:
        TaskError: the file has another form, or a line has more or fewer fields than the first.
    """
    with open_text(origin, path) as file, _long_fields():
        lines = csv.reader(file, strict=True)
        try:
            header = next(filter(None, lines), [])
            check_columns(origin, header, columns)
            table = _table(origin, lines, header, columns)
        except csv.Error as error:
            raise TaskError(f"{origin}: cannot be read: line {lines.line_num}: {error}") from None
    return table if columns.label is None else _with_label(origin, table, columns.label, columns.scores)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Allow long fields meanwhile: the csv module has one limit for the whole process, by default 128 KiB."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _table(origin: str, lines: Any, header: list[str], columns: Columns) -> pa.Table:
    positions = {column: header.index(column) for column in columns.all}
    pieces: dict[str, list[pa.Array]] = {column: [] for column in positions}
    for block in _blocks(origin, lines, header):
        for column, position in positions.items():
            texts = pa.array(list(map(itemgetter(position), block)), pa.string())
            in_one_piece = isinstance(texts, pa.Array)  # over 2 GiB it comes in chunks
            pieces[column] += [texts] if in_one_piece else texts.chunks
    return pa.table({column: pa.chunked_array(chunks, pa.string()) for column, chunks in pieces.items()})


def _blocks(origin: str, lines: Any, header: list[str]) -> Iterator[list[list[str]]]:
    """The rows in blocks, each row a list; empty lines are skipped."""
    start = lines.line_num + 1
    while block := list(islice(lines, BATCH)):
        widths = set(map(len, block))
        if widths - {0, len(header)}:
            raise TaskError(f"{origin}: {_misshapen(block, header, start)}")
        yield [row for row in block if row] if 0 in widths else block
        start = lines.line_num + 1


def _misshapen(block: list[list[str]], header: list[str], line: int) -> str:
    """The error for a line whose number of fields is not that of the header."""
    for row in block:
        if row and len(row) != len(header):
            break
        line += 1 + sum(len(LINE_END.findall(field)) for field in row)
    fields = "1 field" if len(row) == 1 else f"{len(row)} fields"
    return (
        f"cannot be read: line {line} has {fields}, the first line has {len(header)}; a text with commas or line ends "
        "must be in double quotes"
    )


def _with_label(origin: str, table: pa.Table, label: str, scores: bool) -> pa.Table:
    texts = table.column(label)
    values = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    if scores:
        values = _numbers(origin, label, values)
    return table.set_column(table.column_names.index(label), label, values)


def _numbers(origin: str, column: str, texts: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(texts)
    try:
        return trimmed.cast(pa.float64())
    except pa.ArrowInvalid:
        others = [row for row, text in enumerate(trimmed.to_pylist()) if not _is_number(text)]
        first = shown(texts[others[0]].as_py())
        raise TaskError(
            f"{origin}: column {column!r} has no number in {row_numbers(others)}, the first is {first}; a regression "
            "needs numbers, with a decimal point"
        ) from None


def _is_number(text: str | None) -> bool:
    try:
        pa.scalar(text, pa.string()).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
