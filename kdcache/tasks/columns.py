"""Columns of a table, whatever their encoding; names and rows in messages."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbered = Callable[[int], str]  # what a message calls the row at a position, such as "37"
SHOWN = 10  # at most so many rows or values are listed in a message
LONGEST = 60  # characters of a name in a message


def listed(values: Iterable[Any], shown: int = SHOWN) -> str:
    """A list in a message, cut after `shown` values: `1, 2, 3, ... (57 in all)`."""
    items = list(values)
    text = ", ".join(str(item) for item in items[:shown])
    return text if len(items) <= shown else f"{text}, ... ({len(items)} in all)"


def shown(name: str) -> str:
    """A name in a message: in quotes if it has invisible characters, and cut if it is long."""
    cut = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    return cut if cut and cut.isprintable() and cut == cut.strip() and "," not in cut else repr(cut)


def shown_all(names: Iterable[str], at_most: int = SHOWN, beside: Iterable[str] = ()) -> str:
    """Names in a message: `a, ' b', c`; in ASCII if they would look like another, also of those beside them."""
    names = list(names)
    looks: dict[str, set[str]] = {}
    for name in (*names, *beside):
        looks.setdefault(look(shown(name)), set()).add(name)
    alone = [len(looks[look(shown(name))]) == 1 for name in names]
    clear = [shown(name) if one else ascii(name[:LONGEST]) for name, one in zip(names, alone, strict=True)]
    return listed(clear, at_most)


def look(name: str) -> str:
    """How a name looks: without kinds of white space, invisible characters, and different encodings of a letter."""
    visible = (
        letter for letter in name if letter.isspace() or unicodedata.category(letter) not in ("Cc", "Cf")
    )
    return " ".join(unicodedata.normalize("NFC", "".join(visible)).split())


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without dictionary encoding and without an extension type."""
    if isinstance(column.type, pa.BaseExtensionType):
        chunks = [chunk.storage for chunk in column.chunks]
        column = pa.chunked_array(chunks, type=column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


def without_decimals(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column, its decimals as the nearest doubles; Arrow's own cast is off by the last bit now and then."""
    if not pa.types.is_decimal(column.type):
        return column
    nearest = [None if value is None else float(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(nearest, pa.float64())])


def row_numbers(rows: npt.NDArray[np.int64] | list[int], numbered: Numbered = str) -> str:
    """Rows in a message: `2 rows (row 3, 7)`.

    Args:
        rows: positions among the rows that are read.
        numbered: what a message calls the row at a position.
    """
    count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
    return f"{count} (row {', '.join(map(numbered, rows[:SHOWN]))}{', ...' if len(rows) > SHOWN else ''})"


def is_blank(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """[N]: whether a text is missing, empty or only white space."""
    blank = pc.equal(pc.utf8_trim_whitespace(column), "")
    return np.asarray(pc.fill_null(blank, True).to_numpy(), dtype=np.bool_)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def as_integers(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Texts as int64, if each is written as an integer ("7", "-1"; not "07"); otherwise None."""
    try:
        integers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    same = pc.all(pc.equal(integers.cast(pa.string()), texts.cast(pa.string())))
    return integers if same.as_py() in (True, None) else None
