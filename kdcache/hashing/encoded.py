"""The canonical bytes of many rows at once, column by column in Arrow.

A column of texts, numbers or lists of numbers becomes one Arrow column of binary values, each with its lengths and
marks, in a few passes over whole buffers. The columns are then joined, so that each row is one value. Other columns
(images, nested values) are encoded value by value with `content.value_parts`. The bytes are the same either way.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kdcache.errors import CacheError
from kdcache.hashing.content import (
    BOOLEAN,
    FLOAT,
    INTEGER,
    LIST,
    NONE,
    PNG,
    Column,
    array_mark,
    normal,
    plain_value,
    value_parts,
)
from kdcache.hashing.digests import label_bytes, with_lengths

Values: TypeAlias = pa.Array | Sequence[Any]  # a column: Arrow's, or a list of Python values
BINARY = pa.large_binary()
MISSING = with_lengths([NONE, b""])
LABEL_PART = with_lengths([b"\0label"])
UNLABELLED = with_lengths([b"\0unlabelled"]) + label_bytes(0)
NO_NUMBER = label_bytes(0)  # the label of a row whose label counts as content
ARROW_TYPES = {str: pa.large_string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class RowError(CacheError):
    """A value cannot be hashed; `row` is the position of its row among the rows given."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def canonical_rows(
    columns: Sequence[tuple[Column, Values]], label: tuple[Column, Values] | None
) -> list[bytes]:
    """The canonical bytes of each row.

    Args:
        columns: the names and the values [n] of the columns that the hash covers, in order.
        label: the name and the values [n] of the label; None if the rows have none.

    Raises:
        RowError: a value has no stable content.
    """
    pieces = [_encoded(name, values) for name, values in columns]
    pieces.append(_scalar(UNLABELLED) if label is None else _encoded_labels(*label))
    rows: list[bytes] = _joined(*pieces).to_pylist()
    return rows


def label_ending(value: Any, name: Column) -> bytes:
    """The end of a row's canonical bytes: a numeric label; any other label is one more part, and then the label 0.

    Raises:
        CacheError: the label does not fit into 64 bits, or has no stable content.
    """
    value = plain_value(value)
    if isinstance(value, Real):
        return label_bytes(value)  # type: ignore[arg-type]  # an int or a float
    return LABEL_PART + with_lengths(value_parts(value, name)) + NO_NUMBER


def _encoded(name: Column, values: Values) -> pa.Array:
    """Each value's parts, each part preceded by its length: large_binary [n]."""
    array = _as_arrow(values)
    encoded = _stacked(values) if array is None else _of_arrow(array)
    if encoded is None:
        encoded = _one_by_one(values, lambda value: with_lengths(value_parts(value, name)))
    return encoded


def _encoded_labels(name: Column, values: Values) -> pa.Array:
    array = _as_arrow(values)
    missing = LABEL_PART + MISSING + NO_NUMBER
    if array is not None and pa.types.is_floating(array.type):
        return _with_missing(_joined(_scalar(b"f"), _of_8_bytes(_float64(array))), array, missing)
    if array is not None and (pa.types.is_signed_integer(array.type) or pa.types.is_boolean(array.type)):
        numbers = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        return _with_missing(_joined(_scalar(b"i"), _of_8_bytes(numbers)), array, missing)
    encoded = None if array is None or pa.types.is_integer(array.type) else _of_arrow(array)
    if encoded is None:
        return _one_by_one(values, lambda value: label_ending(value, name))
    return _joined(_scalar(LABEL_PART), encoded, _scalar(NO_NUMBER))


def _one_by_one(values: Values, encode: Callable[[Any], bytes]) -> pa.Array:
    encoded = []
    for row, value in enumerate(values.to_pylist() if isinstance(values, pa.Array) else values):
        try:
            encoded.append(encode(value))
        except CacheError as error:
            raise RowError(row, str(error)) from None
    return pa.array(encoded, BINARY)


def _as_arrow(values: Values) -> pa.Array | None:
    """The values as an Arrow array; None if Arrow cannot hold them exactly."""
    if isinstance(values, pa.Array):
        return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    kinds = {type(value) for value in values} - {type(None)}
    if len(kinds) != 1 or not kinds <= ARROW_TYPES.keys():
        return None
    try:
        return pa.array(values, ARROW_TYPES[kinds.pop()])
    except (pa.ArrowException, OverflowError, UnicodeError):  # such as 2^70, or half an emoji
        return None


def _of_arrow(array: pa.Array) -> pa.Array | None:
    """Each value's parts, each preceded by its length; None for a type that has to be encoded value by value."""
    types = pa.types
    kind = array.type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _of_lists(array)
    if _is_text(kind) or _is_bytes(kind):
        content = array.cast(pa.large_string() if _is_text(kind) else BINARY).cast(BINARY)
        if _is_bytes(kind) and pc.any(pc.starts_with(content, PNG)).as_py():  # its pixels count
            return None
        encoded = _part(content)
    elif types.is_integer(kind):
        encoded = _joined(_scalar(with_lengths([INTEGER])), _part(array.cast(pa.large_string()).cast(BINARY)))
    elif types.is_floating(kind):
        begin = with_lengths([FLOAT]) + struct.pack("<Q", 8)
        encoded = _joined(_scalar(begin), _of_8_bytes(_float64(array)))
    elif types.is_boolean(kind):
        bits = array.cast(pa.uint8()).fill_null(0).to_numpy(zero_copy_only=False)
        begin = with_lengths([BOOLEAN]) + struct.pack("<Q", 1)
        encoded = _joined(_scalar(begin), _of_equal_lengths(bits, 1))
    else:
        return None
    return _with_missing(encoded, array, MISSING)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _of_lists(array: pa.Array) -> pa.Array | None:
    """Lists of numbers, encoded as arrays of int64 or float64. Empty lists are encoded as lists."""
    element = array.type.value_type
    is_integer = pa.types.is_integer(element) and element != pa.uint64()
    flat = array.flatten()
    if not (is_integer or pa.types.is_floating(element)) or flat.null_count:
        return None
    numbers = normal(flat.cast(pa.int64() if is_integer else pa.float64()).to_numpy(zero_copy_only=False))
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    distinct, which = np.unique(lengths, return_inverse=True)
    marks = [with_lengths([array_mark(numbers.dtype, (length,))]) for length in distinct.tolist()]
    encoded = _joined(pa.array(marks, BINARY).take(pa.array(which)), _part(_of_lengths(numbers, 8 * lengths)))
    empty = pa.array(lengths == 0)
    encoded = pc.if_else(empty, _scalar(with_lengths([LIST, b"0"])), encoded)
    return _with_missing(encoded, array, MISSING)


def _stacked(values: Values) -> pa.Array | None:
    """Arrays or tensors of one type and shape, stacked and encoded; None if there is anything else."""
    first: Any = values[0] if len(values) else None
    if not isinstance(first, np.ndarray) and not hasattr(first, "detach"):
        return None
    kind, shape, dtype = type(first), first.shape, first.dtype
    if any(type(value) is not kind or value.shape != shape or value.dtype != dtype for value in values):
        return None
    try:
        array = np.stack([value if kind is np.ndarray else value.detach().cpu().numpy() for value in values])
    except (TypeError, RuntimeError):  # such as bfloat16, or sparse tensors
        return None
    if array.dtype.kind not in "biufc" or array.ndim == 1:
        return None
    array = normal(array)
    width = array[0].nbytes
    begin = with_lengths([array_mark(array.dtype, array.shape[1:])]) + struct.pack("<Q", width)
    return _joined(_scalar(begin), _of_equal_lengths(array, width))


def _part(content: pa.Array) -> pa.Array:
    """Each value, preceded by its length."""
    return _joined(
        _of_8_bytes(pc.binary_length(content).fill_null(0).to_numpy(zero_copy_only=False)), content
    )


def _with_missing(encoded: pa.Array, values: pa.Array, missing: bytes) -> pa.Array:
    return pc.if_else(values.is_valid(), encoded, _scalar(missing)) if values.null_count else encoded


def _float64(array: pa.Array) -> npt.NDArray[np.float64]:
    numbers: npt.NDArray[np.float64] = array.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
    return numbers + 0.0  # turns -0.0 into 0.0


def _of_8_bytes(numbers: npt.NDArray[Any]) -> pa.Array:
    return _of_equal_lengths(numbers.astype(numbers.dtype.newbyteorder("<"), copy=False), 8)


def _of_equal_lengths(array: npt.NDArray[Any], width: int) -> pa.Array:
    """The array's bytes in C order, `width` bytes for each row."""
    return _of_lengths(array, np.full(len(array), width, np.int64))


def _of_lengths(array: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> pa.Array:
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    data = pa.py_buffer(np.ascontiguousarray(array))
    return pa.Array.from_buffers(BINARY, len(lengths), [None, pa.py_buffer(offsets), data])


def _joined(*pieces: pa.Array | pa.Scalar) -> pa.Array:
    return pc.binary_join_element_wise(*pieces, _scalar(b""))


def _scalar(value: bytes) -> pa.Scalar:
    return pa.scalar(value, BINARY)
