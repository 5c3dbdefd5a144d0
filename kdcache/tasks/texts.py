"""Texts, checked and read batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdcache.errors import TaskError
from kdcache.hashing.columns import hash_columns
from kdcache.hashing.digests import BLAKE2B, Digests
from kdcache.tasks.columns import Numbered, is_blank, is_text, plain, row_numbers


class TextReader:
    """Reads a split's text columns batch by batch; `finish` refuses empty texts, all at once."""

    def __init__(self, split: str, columns: list[str], numbered: Numbered = str) -> None:
        self.split = split
        self.columns = columns
        self.numbered = numbered
        self._empty: dict[str, list[int]] = {column: [] for column in columns}

    def read(
        self, batch: pa.Table, start: int, labels: npt.NDArray[Any] | None
    ) -> tuple[dict[str, pa.Array], Digests]:
        """The columns `text` [and `text_pair`], and the digests of the rows."""
        arrays: dict[str, pa.Array] = {}
        for name, column in zip(("text", "text_pair"), self.columns, strict=False):
            texts = self._strings(batch.column(column), column)
            self._empty[column] += (start + np.flatnonzero(is_blank(texts))).tolist()
            arrays[name] = texts.combine_chunks()
        return arrays, _digests(arrays, labels)

    def _strings(self, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
        column = plain(column)
        if pa.types.is_null(column.type) or is_text(column.type):
            return column.cast(pa.string())
        bytes_too = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
        advice = (
            " in UTF-8 (these are bytes that are not marked as text)"
            if bytes_too
            else "; write them as strings, or name another column"
        )
        raise TaskError(f"{self.split}: text column {name!r} holds {column.type}, expected strings{advice}")

    def finish(self) -> None:
        """
        Raises:
            TaskError: a text was missing, empty or only white space; the message lists all of them.
        """
        for column, rows in self._empty.items():
            if rows:
                raise TaskError(
                    f"{self.split}: text column {column!r} is empty in {row_numbers(rows, self.numbered)}; "
                    "remove these rows or give them a text"
                )


def _digests(columns: dict[str, pa.Array], labels: npt.NDArray[Any] | None) -> Digests:
    texts = {name: column.fill_null("") for name, column in columns.items()}  # refused when all are read
    table = pa.table(texts if labels is None else {**texts, "label": labels})
    digests = hash_columns(table, list(texts), None if labels is None else "label", BLAKE2B)
    assert digests is not None  # nothing but texts and numbers is in it
    return digests
