"""Texts, checked and read batch by batch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from kdcache.errors import TaskError
from kdcache.tasks.columns import is_blank, is_text, plain, row_numbers


class TextReader:
    """Reads a split's text columns batch by batch; `finish` refuses empty texts, all at once."""

    def __init__(self, split: str, columns: list[str]) -> None:
        self.split = split
        self.columns = columns
        self._empty: dict[str, list[int]] = {column: [] for column in columns}

    def read(self, batch: pa.Table, start: int) -> tuple[dict[str, pa.Array], None]:
        """The columns `text` [and `text_pair`]; they are what the row hash covers."""
        arrays: dict[str, pa.Array] = {}
        for name, column in zip(("text", "text_pair"), self.columns, strict=False):
            texts = self._strings(batch.column(column), column)
            self._empty[column] += (start + np.flatnonzero(is_blank(texts))).tolist()
            arrays[name] = texts.combine_chunks()
        return arrays, None

    def _strings(self, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
        column = plain(column)
        if pa.types.is_null(column.type):
            return column.cast(pa.string())
        if is_text(column.type):
            return column.cast(pa.string())
        raise TaskError(f"{self.split}: text column {name!r} holds {column.type}, expected strings")

    def finish(self) -> None:
        """
        Raises:
            TaskError: a text was missing, empty or only white space.
        """
        for column, rows in self._empty.items():
            if rows:
                raise TaskError(
                    f"{self.split}: text column {column!r} is empty in {row_numbers(rows)}; "
                    "remove these rows or give them a text"
                )
