"""Rows from files: Parquet, CSV, JSON Lines. Their images may be files of their own, named in a column."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdcache.errors import KdcacheError, TaskError
from kdcache.hashing import fingerprint
from kdcache.study import Task
from kdcache.tasks.columns import is_text, shown_all, without_decimals
from kdcache.tasks.image_files import named_images
from kdcache.tasks.labels import among_integers
from kdcache.tasks.rows import Columns, Loaded, Rows, columns_of, rows_of_table
from kdcache.tasks.source_csv import read_csv
from kdcache.tasks.source_json import read_json_lines
from kdcache.tasks.source_parquet import open_parquet

SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")


def load_files(task: Task) -> Loaded:
    """The rows of a task's files.

    Raises:
        TaskError: a file is missing, cannot be read, or does not fit the others.
    """
    splits: dict[str, Rows] = {}
    resolved: dict[str, Any] = {}
    for split in task.source.split_names:
        paths = task.source.places[split]
        columns = columns_of(task, split)
        splits[split] = _joined(split, paths, [open_file(split, path, columns) for path in paths])
        resolved[split] = [{"file": path.as_posix(), "sha256": file_digest(path)} for path in paths]
    return Loaded(splits, {"files": resolved})


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, for the card."""
    try:
        return fingerprint.of_file(path)
    except KdcacheError as error:
        raise TaskError(str(error)) from None


def open_file(split: str, path: Path, columns: Columns) -> Rows:
    """The rows of one file, by its suffix.

    Raises:
        TaskError: as `load_files`.
    """
    origin = f"{split}: {path}"
    _check_file(origin, path)
    if path.suffix == ".parquet":
        rows = open_parquet(origin, path, columns)
    else:
        read = read_csv if path.suffix == ".csv" else read_json_lines
        rows = rows_of_table(origin, read(origin, path, columns), columns)
    return rows if columns.image is None else named_images(origin, rows, columns.image, path.parent)


def _check_file(origin: str, path: Path) -> None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        hint = "; ~ is no home folder here" if str(path).startswith("~") else ""
        raise TaskError(
            f"{origin}: the file does not exist (paths count from the working directory{hint})"
        ) from None
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        raise TaskError(f"{origin}: cannot be read: {error}") from None
    if stat.S_ISDIR(status.st_mode):
        raise TaskError(f"{origin}: is a folder; list the files in it")
    if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device may never end
        raise TaskError(
            f"{origin}: is no regular file but a pipe, socket or device; write the rows to a file"
        )
    if path.suffix not in SUFFIXES:
        raise TaskError(
            f"{origin}: expected a file named {', '.join(SUFFIXES)}, found {path.suffix or 'none'!r}"
        )
    if status.st_size == 0:
        raise TaskError(f"{origin}: the file is empty")


def _joined(split: str, paths: Sequence[Path], parts: list[Rows]) -> Rows:
    """The files of a split, one after the other."""
    declared = [part.names for part in parts if part.names is not None]
    if any(other != declared[0] for other in declared[1:]):
        lists = "; ".join(map(shown_all, declared))
        raise TaskError(f"{split}: its files declare different class names: {lists}")
    names = declared[0] if declared else None
    labels = among_integers(dict(enumerate(part.label for part in parts)), names)
    try:
        tables = [pa.table({"label": label}) for label in _alike(list(labels.values()))]
        label = pa.concat_tables(tables, promote_options="permissive").column("label")
    except pa.ArrowException:
        kinds = ", ".join(str(part.label.type) for part in parts)
        raise TaskError(f"{split}: the labels of its files are of different types: {kinds}") from None
    counts = [len(part.label) for part in parts]
    first = accumulate(counts[:-1], initial=0)
    files = tuple((path.name, row) for path, row in zip(paths, first, strict=True)) if len(parts) > 1 else ()
    return Rows(label, names, partial(_chained, parts), files=files)


def _alike(labels: list[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """The labels of files, texts in one width; decimals beside floats become floats."""
    if any(pa.types.is_floating(label.type) for label in labels):
        labels = list(map(without_decimals, labels))
    return [label.cast(pa.large_string()) if is_text(label.type) else label for label in labels]


def _chained(parts: list[Rows]) -> Iterator[pa.Table]:
    for part in parts:
        yield from part.batches()
