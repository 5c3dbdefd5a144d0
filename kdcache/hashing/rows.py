"""Stable hashes of a data set's rows, for people whose data are not a prepared task.

A logit cache keeps a hash of every row's content and label, so that logits can only ever meet the row they were
computed from. A prepared task stores these hashes; this module computes the same ones for any other data: a
`datasets.Dataset`, a torch data set, a table or a list of rows. docs/library.md says how to use them.

What a value adds to the hash (see `kdcache.hashing.rows.row_hash` for how the parts are put together):

| value                                | parts                                                                |
| ------------------------------------ | -------------------------------------------------------------------- |
| text                                 | its UTF-8 bytes                                                      |
| PNG bytes; image of mode L or RGB    | the shape as Python writes it, `(H, W)` or `(H, W, 3)`; the pixels   |
| image of another mode                | the mode and the size; the pixels (a palette is applied first)       |
| `{bytes, path}`                      | those of the bytes (of the file's, if there is only a path)          |
| other bytes                          | they themselves                                                      |
| uint8 array or tensor                | its shape; its bytes, in C order                                     |
| other array or tensor                | a mark, the type and the shape; its bytes, little-endian, in C order |
| list of integers, or of floats       | those of the int64, or float64, array                                |
| other list, dictionary (keys sorted) | a mark and the length; the parts of its items                        |
| integer, float, true/false, none     | a mark; the value                                                    |

A mark begins with a zero byte, so that no text looks like one. Column names are not part of the hash.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from kdcache.errors import CacheError
from kdcache.hashing import rows

Column: TypeAlias = str | int  # a name; or a position, for rows that are tuples or lists
Row: TypeAlias = Mapping[str, Any] | Sequence[Any]
BOOKKEEPING = ("id", "row_hash")  # columns about the row, not of it
BATCH = 1000  # rows of a datasets.Dataset or a table that become Python objects at a time
PNG = b"\x89PNG\r\n\x1a\n"


def hash_row(row: Row, columns: Sequence[Column] | None = None, label: Column | None = None) -> int:
    """Stable 64-bit hash of one row's content and label.

    A prepared task's row (columns `text` [and `text_pair`], or `image`; label `label`) gets exactly the
    `row_hash` that the task stores. A label that is no number, such as a string, counts as content.

    Args:
        row: a mapping from column to value, or a tuple or list of values.
        columns: the columns to hash, in this order (positions, if the row is a tuple or list). Default: all
            but the label, `id` and `row_hash`, sorted by name.
        label: the label's column; None if the rows have no label.

    Returns:
        An unsigned 64-bit integer.

    Raises:
        CacheError: a column is not there, or holds a type that has no stable content.
    """
    chosen = _chosen(row, columns, label)
    parts = [part for column in chosen for part in _parts(_value(row, column), column)]
    if label is None:
        return rows.row_hash(parts, None)
    target = _plain(_value(row, label))
    if isinstance(target, Real):
        return rows.row_hash(parts, target)  # type: ignore[arg-type]  # an int or a float
    return rows.row_hash([*parts, b"\0label", *_parts(target, label)], 0)


def hash_rows(
    dataset: Any, columns: Sequence[Column] | None = None, label: Column | None = None
) -> npt.NDArray[np.uint64]:
    """`hash_row` of every row of a data set, in its order.

    Args:
        dataset: a `datasets.Dataset` (its format and transforms do not count, only its data), a
            `pyarrow.Table`, or anything with a length and an index. It is read once, row by row.
        columns, label: as for `hash_row`.

    Returns:
        uint64 [N].

    Raises:
        CacheError: as for `hash_row`, naming the row.
    """
    hashes = np.empty(len(dataset), np.uint64)
    for index, row in enumerate(_rows(dataset, columns, label)):
        try:
            hashes[index] = hash_row(row, columns, label)
        except CacheError as error:
            raise CacheError(f"row {index}: {error}") from None
    return hashes


def is_dataset(data: Any) -> bool:
    """Whether this is a `datasets.Dataset`, found out without importing datasets."""
    return any(
        f"{kind.__module__}.{kind.__name__}" == "datasets.arrow_dataset.Dataset" for kind in type(data).mro()
    )


def _rows(dataset: Any, columns: Sequence[Column] | None, label: Column | None) -> Iterator[Row]:
    if isinstance(dataset, pa.Table):
        for batch in dataset.to_batches(max_chunksize=BATCH):
            yield from batch.to_pylist()
    elif is_dataset(dataset):
        yield from _dataset_rows(dataset.with_format(None), columns, label)
    else:
        for index in range(len(dataset)):  # not iter(): torch data sets need only have an index
            yield dataset[index]


def _dataset_rows(dataset: Any, columns: Sequence[Column] | None, label: Column | None) -> Iterator[Row]:
    if columns is not None:  # decode no column that is not needed
        wanted = {*columns, *([] if label is None else [label])}
        dataset = dataset.select_columns([name for name in dataset.column_names if name in wanted])
    for batch in dataset.iter(BATCH):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _chosen(row: Row, columns: Sequence[Column] | None, label: Column | None) -> Iterable[Column]:
    if isinstance(columns, str):
        raise CacheError(f"columns must be a list of names, found the text {columns!r}; write [{columns!r}]")
    if not isinstance(row, Mapping | list | tuple):
        raise CacheError(f"expected a row (a mapping, tuple or list), found {_type_name(row)}")
    if columns is None:
        names: Iterable[Any] = sorted(row) if isinstance(row, Mapping) else range(len(row))
        columns = [name for name in names if name != label and name not in BOOKKEEPING]
    if not columns:
        raise CacheError("the hash would cover no column at all; name the columns that are the row's content")
    return columns


def _value(row: Row, column: Column) -> Any:
    try:
        return row[column]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        there = ", ".join(map(repr, row)) if isinstance(row, Mapping) else f"positions 0 to {len(row) - 1}"
        raise CacheError(f"no column {column!r} in this row; there are: {there}") from None


def _plain(value: Any) -> Any:
    """A NumPy scalar, or an array or tensor without dimensions, as the Python value it holds."""
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        return value.item()
    return value


def _parts(value: Any, column: Column) -> list[bytes]:
    value = _plain(value)
    if isinstance(value, str):
        return [value.encode("utf-8", "surrogatepass")]
    if isinstance(value, bytes | bytearray | memoryview):
        return _of_bytes(bytes(value), column)
    if value is None or isinstance(value, Real):
        return _of_scalar(value)
    if isinstance(value, Mapping):
        return _of_mapping(value, column)
    if isinstance(value, list | tuple):
        return _of_list(value, column)
    if isinstance(value, np.ndarray):
        return _of_array(value, column)
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        return _of_tensor(value, column)
    if hasattr(value, "mode") and hasattr(value, "size") and hasattr(value, "tobytes"):
        return _of_image(value)
    raise CacheError(
        f"column {column!r} holds {_type_name(value)}, which has no stable content to hash; convert it to text, "
        "bytes, numbers or an array, or leave the column out"
    )


def _of_scalar(value: Real | None) -> list[bytes]:
    if value is None:
        return [b"\0none", b""]
    if isinstance(value, bool):
        return [b"\0bool", bytes([value])]
    if isinstance(value, Integral):
        return [b"\0int", str(int(value)).encode()]
    return [b"\0float", struct.pack("<d", float(value) + 0.0)]


def _of_mapping(value: Mapping[str, Any], column: Column) -> list[bytes]:
    if value.keys() == {"bytes", "path"}:  # an encoded image or sound, as datasets keeps it
        return _of_bytes(_encoded(value, column), column)
    parts = [b"\0dict", str(len(value)).encode()]
    for key in sorted(value):
        parts += [key.encode(), *_parts(value[key], column)]
    return parts


def _encoded(value: Mapping[str, Any], column: Column) -> bytes:
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    try:
        return Path(value["path"]).read_bytes()
    except (OSError, TypeError) as error:
        raise CacheError(f"column {column!r} has no bytes, and its file cannot be read: {error}") from None


def _of_list(value: Sequence[Any], column: Column) -> list[bytes]:
    kinds = {type(item) for item in value}
    if kinds in ({int}, {float}):  # token ids, say: as one array, which is fast and equals the tensor of them
        array = np.asarray(value)
        if array.dtype in (np.int64, np.float64):
            return _of_array(array, column)
    parts = [b"\0list", str(len(value)).encode()]
    for item in value:
        parts += _parts(item, column)
    return parts


def _of_array(array: npt.NDArray[Any], column: Column) -> list[bytes]:
    if array.dtype.kind not in "biufc":  # texts or objects: what they hold, not their addresses
        return _of_list(array.tolist(), column)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    if array.dtype.kind in "fc":
        array = array + array.dtype.type(0)  # -0.0 counts as 0.0
    shape = repr(array.shape).encode()
    return [shape if array.dtype == np.uint8 else b"\0" + array.dtype.name.encode() + shape, array.tobytes()]


def _of_tensor(tensor: Any, column: Column) -> list[bytes]:
    try:
        return _of_array(tensor.detach().cpu().numpy(), column)
    except TypeError:  # NumPy has no such type (bfloat16); float32 holds its values exactly
        return [str(tensor.dtype).encode(), *_of_array(tensor.detach().cpu().float().numpy(), column)]


def _of_bytes(data: bytes, column: Column) -> list[bytes]:
    """PNG is lossless, so its pixels are the content: a prepared task's hashes cover pixels, too."""
    if not data.startswith(PNG):
        return [data]
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as opened:
            return _of_image(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CacheError(f"column {column!r} holds a damaged PNG image ({error})") from None


def _of_image(image: Any) -> list[bytes]:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    width, height = image.size
    shapes = {"L": (height, width), "RGB": (height, width, 3)}
    what = repr(shapes[image.mode]) if image.mode in shapes else f"\0{image.mode}({width}, {height})"
    return [what.encode(), image.tobytes()]


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def row_hash(parts: Sequence[bytes], label: int | float | None) -> int:
    """Stable 64-bit hash of one row's content and label, for joining logits to the rows they belong to.

    xxh3_64 over, for each part, its length (8 bytes, little-endian) and its bytes; then the label as `i` and
    8 bytes (signed, little-endian) or `f` and 8 bytes (IEEE 754 double, little-endian; -0.0 counts as 0.0).

    Args:
        parts: text columns in UTF-8, or the image's bytes, in column order.
        label: class index, or the target of a regression; None, of a row without one, counts as the further part
            `\\0unlabelled` and the label 0.

    Returns:
        An unsigned 64-bit integer.
    """
    if label is None:
        return row_hash([*parts, b"\0unlabelled"], 0)
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    if isinstance(label, Integral):  # NumPy's integers too
        digest.update(b"i" + struct.pack("<q", label))
    else:
        digest.update(b"f" + struct.pack("<d", label + 0.0))
    return int(digest.intdigest())
