"""What a value of a row adds to the row's hash: a list of parts, each of them bytes. digests.py joins the parts.

| value                                | parts                                                                |
| ------------------------------------ | -------------------------------------------------------------------- |
| text                                 | its UTF-8 bytes                                                      |
| PNG bytes; image of mode L or RGB    | the shape as Python writes it, `(H, W)` or `(H, W, 3)`; the pixels, upright |
| image of another mode                | the mode and the size; the pixels (a palette is applied first)       |
| `{bytes, path}`                      | those of the bytes (or of the file's bytes, if there is only a path) |
| other bytes                          | the bytes                                                            |
| uint8 array or tensor                | its shape; its bytes, in C order                                     |
| other array or tensor                | a mark, the type and the shape; its bytes, little-endian, in C order |
| list of integers, or of floats       | those of the int64, or float64, array                                |
| other list, dictionary (keys sorted) | a mark and the length; the parts of its items                        |
| integer, float, true/false, none     | a mark; the value                                                    |

A mark begins with a zero byte, so that no text looks like one. The shape of an image or of a uint8 array has none, and
a text can look like it. So two rows can share a hash if a column is a text in one and an array in the other (rows.py).
Column names are not part of the hash.

Different values of one type give different parts. If a PNG has more than Pillow's pixels show (16 bits a colour, more
frames, a colour profile), it counts by its file's bytes. An image of several frames counts by all of its frames.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError, KdcacheError
from kdcache.system.files import open_regular

Column: TypeAlias = str | int  # a name, or a position if rows are tuples or lists
PNG = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # the Exif tag
NONE, BOOLEAN, INTEGER, FLOAT, LIST = b"\0none", b"\0bool", b"\0int", b"\0float", b"\0list"  # marks
# Chunks of a PNG that are visible in its pixels (tRNS as alpha, eXIf as the rotation) or do not change the picture.
PICTURE_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
OTHER_CHUNKS = {b"sRGB", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"tIME", b"bKGD", b"hIST", b"sBIT", b"sPLT"}


def plain_value(value: Any) -> Any:
    """A NumPy scalar, or an array or tensor without dimensions, as a Python value."""
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        return value.item()
    return value


def value_parts(value: Any, column: Column) -> list[bytes]:
    """The parts of one value; `column` is for the messages.

    Raises:
        CacheError: the value has no stable content.
    """
    try:
        return _parts(plain_value(value), column)
    except (RuntimeError, OverflowError) as error:  # nested too deep, or a tensor without values
        raise CacheError(f"column {column!r} holds a value that cannot be hashed: {error}") from None


def _parts(value: Any, column: Column) -> list[bytes]:
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
        return of_array(value, column)
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        return _of_tensor(value, column)
    if hasattr(value, "mode") and hasattr(value, "size") and hasattr(value, "tobytes"):
        return _of_image(value, column)
    raise CacheError(
        f"column {column!r} holds {type_name(value)}, which has no stable content to hash; convert it to text, "
        "bytes, numbers or an array, or leave the column out"
    )


def _of_scalar(value: Real | None) -> list[bytes]:
    if value is None:
        return [NONE, b""]
    if isinstance(value, bool):
        return [BOOLEAN, bytes([value])]
    if isinstance(value, Integral):
        return [INTEGER, _digits(int(value))]
    return [FLOAT, struct.pack("<d", float(value) + 0.0)]


def _digits(value: int) -> bytes:
    if value.bit_length() > 4096:  # Python writes no more than 4,300 digits
        raise OverflowError(f"an integer of {value.bit_length()} bits")
    return str(value).encode()


def _of_mapping(value: Mapping[str, Any], column: Column) -> list[bytes]:
    if value.keys() == {"bytes", "path"}:  # an encoded image or sound, as datasets keeps it
        return _of_bytes(_encoded(value, column), column)
    parts = [b"\0dict", str(len(value)).encode()]
    for key in sorted(_texts(value, column)):
        parts += [key.encode("utf-8", "surrogatepass"), *_parts(plain_value(value[key]), column)]
    return parts


def _texts(keys: Iterable[Any], column: Column) -> Iterable[str]:
    other = next((key for key in keys if not isinstance(key, str)), None)
    if other is not None:
        raise CacheError(
            f"column {column!r} holds a mapping with the key {other!r:.80}; its keys must be texts, all of them"
        )
    return keys


def _encoded(value: Mapping[str, Any], column: Column) -> bytes:
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    try:
        with open_regular(Path(value["path"])) as file:
            return file.read()
    except (OSError, TypeError, ValueError, KdcacheError) as error:
        raise CacheError(f"column {column!r} has no bytes, and its file cannot be read: {error}") from None


def _of_list(value: Sequence[Any], column: Column) -> list[bytes]:
    kinds = {type(item) for item in value}
    if kinds in ({int}, {float}):  # such as token ids: as one array, which is fast and equals the same tensor
        array = np.asarray(value)
        if array.dtype in (np.int64, np.float64):
            return of_array(array, column)
    parts = [LIST, str(len(value)).encode()]
    for item in value:
        parts += _parts(plain_value(item), column)
    return parts


def of_array(array: npt.NDArray[Any], column: Column) -> list[bytes]:
    """The parts of an array: its mark (type and shape), and its bytes."""
    if array.dtype.kind not in "biufc":  # texts or objects: hash their values, not their addresses
        return _of_list(array.tolist(), column)
    array = normal(array)
    return [array_mark(array.dtype, array.shape), array.tobytes()]


def normal(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Numbers in C order and little-endian, with 0.0 for -0.0."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return array + array.dtype.type(0) if array.dtype.kind in "fc" else array


def array_mark(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The mark of an array: its shape, and also its type if that is not uint8."""
    text = repr(shape).encode()
    return text if dtype == np.uint8 else b"\0" + dtype.name.encode() + text


def _of_tensor(tensor: Any, column: Column) -> list[bytes]:
    try:
        values = tensor.detach().cpu()
        try:
            return of_array(values.numpy(), column)
        except TypeError:  # NumPy has no such type (bfloat16); float32 holds its values exactly
            return [str(tensor.dtype).encode(), *of_array(values.float().numpy(), column)]
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise CacheError(f"column {column!r} holds a tensor that NumPy cannot take: {error}") from None


def _of_bytes(data: bytes, column: Column) -> list[bytes]:
    """The parts of bytes. A PNG counts by its pixels, as in a prepared task: PNG is lossless."""
    if not data.startswith(PNG):
        return [data]
    if not _pixels_say_all(data):
        return [b"\0png", data]
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as opened:
            return _of_frame(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CacheError(f"column {column!r} holds a damaged PNG image ({error})") from None


def _pixels_say_all(png: bytes) -> bool:
    """Whether Pillow's pixels are the whole picture: no 16-bit colours, no frames, no colour profile."""
    if len(png) < 26 or (png[24] == 16 and png[25] != 0):  # 16 bits per channel, and not grey (0)
        return len(png) < 26
    place = len(PNG)
    while place + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        if kind not in PICTURE_CHUNKS and kind not in OTHER_CHUNKS:
            return False
        place += 12 + length
    return True


def _of_image(image: Any, column: Column) -> list[bytes]:
    frames = getattr(image, "n_frames", 1)
    try:
        if frames == 1:
            return _of_frame(_upright(image))
        return [b"\0frames", str(frames).encode(), *_of_frames(image, frames)]
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise CacheError(f"column {column!r} holds a damaged image ({error})") from None


def _upright(image: Any) -> Any:
    """The image, turned upright if its Exif data say that it is rotated, as in a prepared task."""
    if not hasattr(image, "getexif") or image.getexif().get(ORIENTATION, 1) == 1:
        return image
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _of_frames(image: Any, frames: int) -> list[bytes]:
    shown, parts = image.tell(), []
    for frame in range(frames):
        image.seek(frame)
        parts += _of_frame(image)
    image.seek(shown)
    return parts


def _of_frame(image: Any) -> list[bytes]:
    if image.mode in ("P", "PA") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    width, height = image.size
    shapes = {"L": (height, width), "RGB": (height, width, 3)}
    shape = repr(shapes[image.mode]) if image.mode in shapes else f"\0{image.mode}({width}, {height})"
    return [shape.encode(), image.tobytes()]


def type_name(value: Any) -> str:
    """A value's type with its module."""
    return f"{type(value).__module__}.{type(value).__qualname__}"
