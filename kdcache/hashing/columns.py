"""The digests of whole Arrow columns at once: those that `rows.py` gives row by row, in a small part of the time.

Each column becomes one of encoded bytes (in Arrow's own loops), the columns are joined element by element, and what is
left for Python is one call of the hash function a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kdcache.hashing.content import Column, value_parts
from kdcache.hashing.digests import Algorithm, Digests, digest_of, length_and

BOOKKEEPING = ("id", "row_hash")  # columns about the row, not of it
ROWS = 1 << 16  # taken at a time


def is_dataset(data: Any) -> bool:
    """Whether this is a `datasets.Dataset`, found out without importing datasets."""
    return any(
        f"{kind.__module__}.{kind.__name__}" == "datasets.arrow_dataset.Dataset" for kind in type(data).mro()
    )


def hash_columns(
    dataset: Any, columns: Sequence[Column] | None, label: Column | None, algorithm: Algorithm
) -> Digests | None:
    """The digests [N, 2] of an Arrow table's or a `datasets.Dataset`'s rows.

    None where they have to be taken row by row: other data, columns that are not there, values that are missing or are
    no texts and numbers.
    """
    tables = _tables(dataset, columns, label)
    if tables is None:
        return None
    digests = bytearray()
    for table, names in tables:
        encoded = _encoded_rows(table, names, label)
        if encoded is None:
            return None
        for content in _values(encoded):
            digests += digest_of(content, algorithm)
    return np.frombuffer(bytes(digests), "<u8").reshape(-1, 2)


def _tables(
    dataset: Any, columns: Sequence[Column] | None, label: Column | None
) -> Iterator[tuple[pa.Table, list[str]]] | None:
    """The data in pieces, and the names of the columns that are content."""
    if isinstance(columns, str) or not (isinstance(dataset, pa.Table) or is_dataset(dataset)):
        return None
    present = list(dataset.column_names)
    content = columns or sorted(name for name in present if name != label and name not in BOOKKEEPING)
    names = [str(name) for name in content]
    needed = [*names, *([] if label is None else [str(label)])]
    if not names or any(present.count(name) != 1 for name in needed):
        return None
    if isinstance(dataset, pa.Table):
        return ((dataset.slice(start, ROWS), names) for start in range(0, dataset.num_rows, ROWS))
    if not all(type(dataset.features[name]).__name__ in ("Value", "ClassLabel") for name in needed):
        return None
    plain = dataset.select_columns(list(dict.fromkeys(needed))).with_format("arrow")
    return ((table, names) for table in plain.iter(ROWS))


def _encoded_rows(table: pa.Table, names: Sequence[str], label: Column | None) -> pa.Array | None:
    """A row's content and label as the hash covers them; None where a column has to be taken value by value."""
    parts = [_encoded(table.column(name)) for name in names]
    if label is None:
        parts.append(_same(length_and(b"\0unlabelled") + _label(0), table.num_rows))
    else:
        parts += _encoded_label(table.column(str(label)))
    if any(part is None for part in parts):
        return None
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))


def _encoded(column: pa.ChunkedArray) -> pa.Array | None:
    """Each value's parts, with their lengths before them: large_binary [n]."""
    values, kind = _combined(column), column.type
    if values is None:
        return None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _joined(_lengths(values), values.cast(pa.large_binary()))
    if pa.types.is_integer(kind):
        digits = values.cast(pa.large_string())
        return _joined(
            _same(length_and(b"\0int"), len(values)), _lengths(digits), digits.cast(pa.large_binary())
        )
    if pa.types.is_floating(kind):
        numbers = _fixed(_doubles(values))
        return _joined(_same(length_and(b"\0float") + length_and(bytes(8))[:8], len(values)), numbers)
    if pa.types.is_boolean(kind):
        bits = [b"".join(map(length_and, value_parts(value, ""))) for value in (False, True)]
        return pa.array(bits, pa.large_binary()).take(values.cast(pa.int8()))
    return None


def _encoded_label(column: pa.ChunkedArray) -> list[pa.Array | None]:
    """Numbers as the label that they are; a text is one more part, and the label 0."""
    values, kind = _combined(column), column.type
    if values is None or pa.types.is_uint64(kind):
        return [None]
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return [_same(b"i", len(values)), _fixed(values.cast(pa.int64()).to_numpy(zero_copy_only=False))]
    if pa.types.is_floating(kind):
        return [_same(b"f", len(values)), _fixed(_doubles(values))]
    return [_same(length_and(b"\0label"), len(values)), _encoded(column), _same(_label(0), len(values))]


def _label(value: int) -> bytes:
    return b"i" + value.to_bytes(8, "little", signed=True)


def _combined(column: pa.ChunkedArray) -> pa.Array | None:
    """The column in one piece; None where a value is missing, or the type is no plain one."""
    if (
        column.null_count
        or isinstance(column.type, pa.BaseExtensionType)
        or pa.types.is_dictionary(column.type)
    ):
        return None
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _doubles(values: pa.Array) -> npt.NDArray[np.float64]:
    """As doubles; -0.0 counts as 0.0."""
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.float64) + 0.0


def _lengths(values: pa.Array) -> pa.Array:
    return _fixed(np.asarray(pc.binary_length(values).to_numpy(zero_copy_only=False)).astype(np.int64))


def _fixed(numbers: npt.NDArray[Any]) -> pa.Array:
    """The 8 bytes of each number, little-endian."""
    little = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<"))
    fixed = pa.Array.from_buffers(pa.binary(8), len(little), [None, pa.py_buffer(little)])
    return fixed.cast(pa.large_binary())


def _same(value: bytes, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.large_binary()), rows)


def _joined(*parts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))


def _values(encoded: pa.Array) -> Iterator[memoryview]:
    """The bytes of each element, without copying them."""
    _, offset_buffer, data = encoded.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[
        encoded.offset : encoded.offset + len(encoded) + 1
    ].tolist()
    view = memoryview(data) if data is not None else memoryview(b"")
    return (view[start:stop] for start, stop in pairwise(offsets))
