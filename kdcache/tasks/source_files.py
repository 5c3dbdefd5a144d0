"""Rows from files: Parquet, CSV, JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from kdcache.errors import KdcacheError, TaskError
from kdcache.hashing import fingerprint
from kdcache.study import Task
from kdcache.tasks.columns import listed, plain
from kdcache.tasks.rows import (
    BATCH,
    Columns,
    Loaded,
    Rows,
    check_columns,
    columns_of,
    declared_names,
    no_labels,
    rows_of_table,
)

SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")


def load_files(task: Task, files: dict[str, str | list[str]]) -> Loaded:
    splits: dict[str, Rows] = {}
    resolved: dict[str, Any] = {}
    for split in task.source.split_names:
        given = files[split]
        paths = [Path(path) for path in ([given] if isinstance(given, str) else given)]
        columns = columns_of(task, split)
        splits[split] = _joined(split, [open_file(split, path, columns) for path in paths])
        resolved[split] = [{"file": path.as_posix(), "sha256": file_digest(path)} for path in paths]
    return Loaded(splits, {"files": resolved})


def file_digest(path: Path) -> str:
    try:
        return fingerprint.of_file(path)
    except KdcacheError as error:
        raise TaskError(str(error)) from None


def open_file(split: str, path: Path, columns: Columns) -> Rows:
    where = f"{split}: {path}"
    if not path.exists():
        raise TaskError(f"{where}: the file does not exist (paths count from the working directory)")
    if path.is_dir():
        raise TaskError(f"{where}: is a folder; list the files in it")
    if path.suffix not in SUFFIXES:
        raise TaskError(
            f"{where}: expected a file named {', '.join(SUFFIXES)}, found {path.suffix or 'none'!r}"
        )
    if path.stat().st_size == 0:
        raise TaskError(f"{where}: the file is empty")
    if path.suffix == ".parquet":
        return _open_parquet(where, path, columns)
    with _reading(where):
        table = _read_csv(path, columns) if path.suffix == ".csv" else _read_json_lines(where, path, columns)
    return rows_of_table(where, table, columns)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise TaskError(f"{where}: cannot be read: {' '.join(str(error).split())}") from None


def _open_parquet(where: str, path: Path, columns: Columns) -> Rows:
    with _reading(where):
        schema, count = pq.read_schema(path), pq.read_metadata(path).num_rows
        check_columns(where, schema.names, columns)
        labels = None if columns.label is None else pq.read_table(path, columns=[columns.label])
    if count == 0:
        raise TaskError(f"{where}: there are no rows")
    batches = partial(_parquet_batches, where, path, columns.features)
    if labels is None:
        return Rows(no_labels(count), None, batches)
    return Rows(plain(labels.column(0)), declared_names(where, schema, columns.label or ""), batches)


def _parquet_batches(where: str, path: Path, columns: list[str]) -> Iterator[pa.Table]:
    with _reading(where), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, columns=columns):
            yield pa.Table.from_batches([batch])


def _read_csv(path: Path, columns: Columns) -> pa.Table:
    texts = {column: pa.string() for column in columns.texts}
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=texts),
    )


def _read_json_lines(where: str, path: Path, columns: Columns) -> pa.Table:
    """One object a line; a key that a line lacks is a missing value, that no line has, a missing column."""
    values: dict[str, list[Any]] = {column: [] for column in columns.all}
    keys: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = _parse_line(f"{where}, line {number}", line)
                keys.update(dict.fromkeys(row))
                for column in values:
                    values[column].append(row.get(column))
    if not keys:
        raise TaskError(f"{where}: there are no rows")
    check_columns(where, list(keys), columns)
    return pa.table({column: _json_column(where, column, found) for column, found in values.items()})


def _parse_line(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TaskError(f"{where}: is not JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise TaskError(f"{where}: expected one JSON object a line, found {type(row).__name__}")
    return row


def _json_column(where: str, column: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError) as error:
        raise TaskError(f"{where}: column {column!r} mixes types: {error}") from None


def _joined(split: str, parts: list[Rows]) -> Rows:
    """The files of a split, one after the other."""
    names = [part.names for part in parts if part.names is not None]
    if any(other != names[0] for other in names[1:]):
        raise TaskError(f"{split}: its files declare different class names: {'; '.join(map(listed, names))}")
    try:
        tables = [pa.table({"label": part.label}) for part in parts]
        label = pa.concat_tables(tables, promote_options="permissive").column("label")
    except pa.ArrowException:
        kinds = ", ".join(str(part.label.type) for part in parts)
        raise TaskError(f"{split}: the labels of its files are of different types: {kinds}") from None
    return Rows(label, names[0] if names else None, partial(_chained, parts))


def _chained(parts: list[Rows]) -> Iterator[pa.Table]:
    for part in parts:
        yield from part.batches()
