"""The bytes that stand for a value in its row's hash.

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
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError

Column: TypeAlias = str | int  # a name; or a position, for rows that are tuples or lists
PNG = b"\x89PNG\r\n\x1a\n"


def plain_value(value: Any) -> Any:
    """A NumPy scalar, or an array or tensor without dimensions, as the Python value it holds."""
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        return value.item()
    return value


def value_parts(value: Any, column: Column) -> list[bytes]:
    value = plain_value(value)
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
        f"column {column!r} holds {type_name(value)}, which has no stable content to hash; convert it to text, "
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
        parts += [key.encode(), *value_parts(value[key], column)]
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
        parts += value_parts(item, column)
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


def type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
