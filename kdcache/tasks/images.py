"""Images, decoded, checked and kept as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from kdcache.errors import TaskError
from kdcache.hashing.digests import Digests, digest
from kdcache.tasks.columns import Numbered, plain
from kdcache.tasks.image_decoding import Pixels as Pixels
from kdcache.tasks.image_decoding import decode

HALF_FLOAT = 1 / 16  # of a level: the largest error of k/255 that was kept as a 16-bit float
LARGEST = 1 << 29  # bytes of a file: twice the size of the largest image that is read (`MAX_PIXELS`)


class ImageReader:
    """Reads a split's images batch by batch, decodes one at a time, and remembers the largest height and width."""

    def __init__(self, split: str, column: str, numbered: Numbered = str) -> None:
        self.split = split
        self.column = column
        self.numbered = numbered
        self.height = self.width = self.channels = 0

    def read(
        self, batch: pa.Table, start: int, labels: npt.NDArray[Any] | None
    ) -> tuple[dict[str, pa.Array], Digests]:
        """The column `image` (PNG), and the digests of the rows, which cover shape, pixels and label."""
        encoded, digests = [], bytearray()
        known = [None] * batch.num_rows if labels is None else labels.tolist()
        for row, (value, label) in enumerate(
            zip(plain(batch.column(self.column)), known, strict=True), start
        ):
            try:
                pixels = to_pixels(value.as_py())
            except ValueError as error:
                place = f"{self.split}: image column {self.column!r}, row {self.numbered(row)}"
                raise TaskError(f"{place}: {error}") from None
            self._remember(pixels)
            encoded.append(to_png(pixels))
            digests += digest([repr(pixels.shape).encode(), pixels.tobytes()], label)
        return {"image": pa.array(encoded, pa.binary())}, np.frombuffer(bytes(digests), "<u8").reshape(-1, 2)

    def _remember(self, pixels: Pixels) -> None:
        self.height = max(self.height, pixels.shape[0])
        self.width = max(self.width, pixels.shape[1])
        self.channels = max(self.channels, 3 if pixels.ndim == 3 else 1)

    def finish(self) -> None:
        """Nothing is left to check: a bad image raises an error at its row."""


def to_pixels(value: Any) -> Pixels:
    """One image as uint8 [H, W] (grey) or [H, W, 3] (RGB).

    Args:
        value: encoded bytes; `{bytes, path}` (Hugging Face `Image`); or nested lists of numbers, [H, W],
            [H, W, 1 or 3] or [1 or 3, H, W], integers 0..255 or floats 0..1.

    Raises:
        ValueError: says what is wrong with it.
    """
    if isinstance(value, dict) and "bytes" in value:
        if value["bytes"] is None and value.get("path") is not None:
            return _of_file(value["path"])
        value = value["bytes"]
    if value is None:
        raise ValueError("the image is missing; remove this row")
    if isinstance(value, bytes):
        return decode(value)
    if isinstance(value, list):
        return _from_numbers(value)
    raise ValueError(
        f"expected encoded bytes, a struct of bytes and path, or nested numbers, found {type(value).__name__}"
    )


def _of_file(path: str) -> Pixels:
    try:
        if not Path(path).is_file() and Path(path).exists():
            raise ValueError("is no regular file")  # a pipe would block, a device may never end
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"holds only a path, which cannot be read: {path:.300}: {reason}; embed the bytes"
        ) from None
    if len(content) > LARGEST:
        raise ValueError(f"{path}: has more than {LARGEST:,} bytes; make it smaller")
    try:
        return decode(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _from_numbers(value: list[Any]) -> Pixels:
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError("the rows of the image have different lengths") from None
    if array.dtype.kind not in "uif":
        raise ValueError("the image has values that are missing or are no numbers")
    array = _channels_last(array)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError("the image has NaN or infinite values")
        array = array * 255.0
    if array.min() < 0 or array.max() > 255:
        raise ValueError("the values must be integers 0..255 or floats 0..1")
    levels = np.rint(array)
    if np.abs(array - levels).max() > HALF_FLOAT:
        raise ValueError("the floats lie between the 256 levels k/255 of 8 bits; round them yourself")
    return levels.astype(np.uint8)


def _channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.ndim == 3 and array.shape[2] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(
            f"expected shape [H, W], [H, W, 1 or 3] or [1 or 3, H, W], found {list(array.shape)}"
        )
    return array


def to_png(pixels: Pixels) -> bytes:
    """Lossless PNG of uint8 [H, W] or [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
