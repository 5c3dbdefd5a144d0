"""Rows of a split as a source gives them: labels at once, features in batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from kdcache.errors import TaskError
from kdcache.study import UNLABELLED, Task
from kdcache.tasks.columns import look, plain, shown_all

BATCH = 1024  # rows read at a time
FEW = 32  # images read at a time
TOGETHER = 1 << 24  # bytes of images in one batch: as PNG they may be ten times as many
Batches = Callable[[], Iterator[pa.Table]]


@dataclass(frozen=True)
class Rows:
    """A split, or one file of it: its labels, the class names it declares, and its features in batches.

    The labels of the split `unlabelled` and of documents are nulls; no label column is read for them.

    Args:
        drawn: ascending, the numbers of these rows in the whole split; None if they are the whole split.
        files: of a split of several files, each file's name and the number of its first row in the whole split.
    """

    label: pa.ChunkedArray
    names: list[str] | None
    batches: Batches
    drawn: npt.NDArray[np.int64] | None = None
    files: tuple[tuple[str, int], ...] = ()

    def numbered(self, position: int) -> str:
        """What a message calls the row at a position: its number in its source, `37` or `37 of b.csv`."""
        row = position if self.drawn is None else int(self.drawn[position])
        if not self.files:
            return str(row)
        name, first = max((file for file in self.files if file[1] <= row), key=itemgetter(1))
        return f"{row - first} of {name}"


@dataclass(frozen=True)
class Columns:
    """The columns that are read of a split: texts or the image, and the label; None if no label is read.

    A CSV file's labels are read as texts; those of a regression (`scores`) as numbers.
    """

    texts: list[str]
    image: str | None
    label: str | None
    scores: bool = False

    @property
    def read_at_once(self) -> int:
        """How many rows a source reads at a time; see `bounded` for images."""
        return BATCH if self.image is None else FEW

    @property
    def features(self) -> list[str]:
        return self.texts or [self.image or ""]

    @property
    def all(self) -> list[str]:
        return self.features if self.label is None else [*self.features, self.label]


@dataclass(frozen=True)
class Loaded:
    """The splits of a task, where they were found (for card.json), how many rows were left out, and why."""

    splits: dict[str, Rows]
    resolved: dict[str, Any]
    dropped: dict[str, int] = field(default_factory=dict)


def no_labels(rows: int) -> pa.ChunkedArray:
    """The labels of rows that have none: nulls."""
    return pa.chunked_array([pa.nulls(rows)])


def columns_of(task: Task, split: str) -> Columns:
    """The columns that a task reads of a split."""
    unlabelled = split == UNLABELLED or task.language_modelling
    return Columns(task.text or [], task.image, None if unlabelled else task.label, task.regression)


def check_columns(origin: str, present: list[str], columns: Columns) -> None:
    """
    Args:
        origin: the split and the file, for messages.
        present: the names of the columns that are there.

    Raises:
        TaskError: a column is missing, or there are two of its name.
    """
    for column in columns.all:
        count = present.count(column)
        if count == 0:
            there = shown_all(present, 30, beside=[column]) or "none"
            asked = ascii(column) if look(column) in map(look, present) else repr(column)
            raise TaskError(f"{origin}: no column {asked}; there are: {there}")
        if count > 1:
            raise TaskError(f"{origin}: {count} columns are named {column!r}; names must differ")


def rows_of_table(origin: str, table: pa.Table, columns: Columns, names: list[str] | None = None) -> Rows:
    """A table's rows.

    Raises:
        TaskError: a column is missing, or there are no rows.
    """
    check_columns(origin, table.column_names, columns)
    if table.num_rows == 0:
        raise TaskError(f"{origin}: there are no rows")
    batches = partial(_slices, table.select(columns.features), columns)
    if columns.label is None:
        return Rows(no_labels(table.num_rows), None, batches)
    return Rows(plain(table.column(columns.label)), names, batches)


def rows_of_dataset(origin: str, data: Any, columns: Columns) -> Rows:
    """The rows of a `datasets.Dataset`; features are read batch by batch.

    Raises:
        TaskError: a column is missing, or there are no rows.
    """
    check_columns(origin, data.column_names, columns)
    if len(data) == 0:
        raise TaskError(f"{origin}: there are no rows")
    batches = partial(_batches_of, data.select_columns(columns.features).with_format("arrow"), columns)
    if columns.label is None:
        return Rows(no_labels(len(data)), None, batches)
    label = data.select_columns([columns.label]).with_format("arrow")[:].column(columns.label)
    return Rows(plain(label), declared_names(origin, data.features.arrow_schema, columns.label), batches)


def _slices(table: pa.Table, columns: Columns) -> Iterator[pa.Table]:
    size = columns.read_at_once
    slices = (table.slice(start, size) for start in range(0, table.num_rows, size))
    return bounded(slices, columns)


def _batches_of(data: Any, columns: Columns) -> Iterator[pa.Table]:
    return bounded(data.iter(columns.read_at_once), columns)


def bounded(batches: Iterator[pa.Table], columns: Columns) -> Iterator[pa.Table]:
    """Batches of images, few at a time, joined up to BATCH rows or TOGETHER bytes; texts are passed on as they are."""
    if columns.image is None:
        yield from batches
        return
    parts: list[pa.Table] = []
    for batch in batches:
        parts.append(batch)
        if sum(part.num_rows for part in parts) >= BATCH or sum(part.nbytes for part in parts) >= TOGETHER:
            yield pa.concat_tables(parts)
            parts = []
    if parts:
        yield pa.concat_tables(parts)


def declared_names(origin: str, schema: pa.Schema, label: str) -> list[str] | None:
    """Class names that Hugging Face metadata declares for the label column (`ClassLabel`), or None.

    Raises:
        TaskError: the metadata is there but damaged.
    """
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return None
    try:
        feature = json.loads(stored)["info"]["features"].get(label, {})
        if feature.get("_type") != "ClassLabel":
            return None
        names = feature["names"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TaskError(f"{origin}: its Hugging Face metadata cannot be read: {error!r:.200}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TaskError(f"{origin}: its Hugging Face metadata has class names that are no list of texts")
    return names
