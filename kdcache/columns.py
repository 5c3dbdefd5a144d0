"""Check and convert one column of a task: labels, texts, images.

Each function takes Arrow data as a source delivers it and returns the prepared form, or raises a TaskError
that names the split, the column, the first rows at fault (0-based, in file order) and what to do.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageOps

from kdcache.errors import TaskError

SHOWN = 10  # at most so many rows or values are listed in a message
Pixels = npt.NDArray[np.uint8]


def listed(values: Iterable[Any], shown: int = SHOWN) -> str:
    """`1, 2, 3, ... (57 in all)`: a message's list, cut after `shown` values."""
    items = list(values)
    text = ", ".join(str(item) for item in items[:shown])
    return text if len(items) <= shown else f"{text}, ... ({len(items)} in all)"


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without dictionary encoding and without an extension type."""
    if isinstance(column.type, pa.BaseExtensionType):
        chunks = [chunk.storage for chunk in column.chunks]
        column = pa.chunked_array(chunks, type=column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


@dataclass(frozen=True)
class Labels:
    """Per split int64 class indices or float64 targets, [N]; and the class names in order ([] if real)."""

    values: dict[str, npt.NDArray[Any]]
    names: list[str]


def read_labels(columns: dict[str, pa.ChunkedArray], names: list[str] | None, regression: bool) -> Labels:
    """Class indices or real targets of every split.

    Args:
        columns: the label column of every split; `train` is one of them.
        names: class names in order where the data declares them (`ClassLabel`), else None.

    Raises:
        TaskError: missing or hidden (-1) labels; a type that does not fit; gaps; a class that train lacks.
    """
    columns = {split: plain(column) for split, column in columns.items()}
    for split, column in columns.items():
        if column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy())
            raise TaskError(f"{split}: the label is missing in {_rows(rows)}; remove or fill these rows")
    if regression:
        return Labels({split: _targets(split, column) for split, column in columns.items()}, [])
    kinds = {split: _kind(split, column.type) for split, column in columns.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{kind} in {split}" for split, kind in kinds.items())
        raise TaskError(f"the labels are of different types: {found}; write them the same way in every split")
    values, names = _indices(columns, kinds["train"], names)
    _refuse_absent(values, names)
    return Labels(values, names)


def _targets(split: str, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise TaskError(f"{split}: a regression needs numbers as labels, found {column.type}")
    values = np.asarray(column.to_numpy(), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise TaskError(f"{split}: the label is NaN or infinite in {_rows(bad)}; remove these rows")
    return values


def _kind(split: str, kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "true/false"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    advice = "labels must be integers 0..K-1, strings or booleans"
    if pa.types.is_floating(kind):
        advice += "; for a regression choose the metrics pearson or spearman"
    raise TaskError(f"{split}: the labels are {kind}; {advice}")


def _indices(
    columns: dict[str, pa.ChunkedArray], kind: str, names: list[str] | None
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    if kind == "string":
        return _from_strings(columns, names)
    values = {split: _integers(split, column) for split, column in columns.items()}
    for split, found in values.items():
        _refuse_negative(split, found)
    if names is None:
        names = ["false", "true"] if kind == "true/false" else _names_of_integers(values)
    for split, found in values.items():
        if len(found) and found.max() >= len(names):
            declared = f"the {len(names)} declared classes ({listed(names)})"
            raise TaskError(f"{split}: label {found.max()} is outside {declared}, numbered from 0")
    return values, names


def _from_strings(
    columns: dict[str, pa.ChunkedArray], names: list[str] | None
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    strings = {split: column.cast(pa.string()) for split, column in columns.items()}
    for split, column in strings.items():
        blank = np.flatnonzero(_is_blank(column))
        if len(blank):
            raise TaskError(
                f"{split}: the label is an empty text in {_rows(blank)}; remove or fill these rows"
            )
    known = sorted(pc.unique(strings["train"]).to_pylist()) if names is None else names
    values = {}
    for split, column in strings.items():
        found = pc.index_in(column, value_set=pa.array(known, pa.string()))
        if found.null_count:
            unseen = sorted(set(column.filter(found.is_null()).to_pylist()))
            what = f"labels that train does not have: {listed(unseen)} (train has {listed(known)})"
            raise TaskError(f"{split}: {what}; a class must be in train to be learnt")
        values[split] = np.asarray(found.to_numpy(), dtype=np.int64)
    return values, known


def _integers(split: str, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    try:
        return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowInvalid as error:
        raise TaskError(f"{split}: a label does not fit 64 bits: {error}") from None


def _refuse_negative(split: str, values: npt.NDArray[np.int64]) -> None:
    bad = np.flatnonzero(values < 0)
    if not len(bad):
        return
    if (values[bad] == -1).all():
        what = f"the label is -1 in {_rows(bad)}, which means hidden (as in the test splits of GLUE)"
        raise TaskError(f"{split}: {what}; use a split with labels")
    raise TaskError(f"{split}: negative labels in {_rows(bad)}; labels must be 0..K-1")


def _names_of_integers(values: dict[str, npt.NDArray[np.int64]]) -> list[str]:
    found = np.unique(np.concatenate(list(values.values())))
    if not np.array_equal(found, np.arange(len(found))):
        raise TaskError(
            f"integer labels must be 0..K-1 without gaps, found {listed(found.tolist())}; "
            "renumber them, or write them as strings"
        )
    return [str(label) for label in found.tolist()]


def _refuse_absent(values: dict[str, npt.NDArray[np.int64]], names: list[str]) -> None:
    if len(names) < 2:
        raise TaskError(f"a classification needs at least two classes, train has {listed(names) or 'none'}")
    counts = np.bincount(values["train"], minlength=len(names))
    absent = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if absent:
        raise TaskError(
            f"train: no row of {'class' if len(absent) == 1 else 'classes'} {listed(absent)} "
            f"(classes: {listed(names)}); a class must be in train to be learnt"
        )


def _rows(rows: npt.NDArray[np.int64] | list[int]) -> str:
    count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
    return (
        f"{count} (row {', '.join(str(row) for row in rows[:SHOWN])}{', ...' if len(rows) > SHOWN else ''})"
    )


def _is_blank(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    blank = pc.equal(pc.utf8_trim_whitespace(column), "")
    return np.asarray(pc.fill_null(blank, True).to_numpy(), dtype=np.bool_)


class TextReader:
    """Reads a split's text columns batch by batch; `finish` refuses empty texts, all at once."""

    def __init__(self, split: str, columns: list[str]) -> None:
        self.split = split
        self.columns = columns
        self._empty: dict[str, list[int]] = {column: [] for column in columns}

    def read(self, batch: pa.Table, start: int) -> tuple[dict[str, pa.Array], list[list[bytes]]]:
        """The columns `text` [and `text_pair`] and, per row, the UTF-8 bytes that its hash covers."""
        arrays: dict[str, pa.Array] = {}
        for name, column in zip(("text", "text_pair"), self.columns, strict=False):
            texts = self._strings(batch.column(column), column)
            self._empty[column] += (start + np.flatnonzero(_is_blank(texts))).tolist()
            arrays[name] = texts.combine_chunks()
        contents = [[(text or "").encode() for text in texts.to_pylist()] for texts in arrays.values()]
        return arrays, [list(parts) for parts in zip(*contents, strict=True)]

    def _strings(self, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
        column = plain(column)
        if pa.types.is_null(column.type):
            return column.cast(pa.string())
        if _is_text(column.type):
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
                    f"{self.split}: text column {column!r} is empty in {_rows(rows)}; "
                    "remove these rows or give them a text"
                )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


class ImageReader:
    """Reads a split's images batch by batch, one decoded at a time, and remembers their largest extent."""

    def __init__(self, split: str, column: str) -> None:
        self.split = split
        self.column = column
        self.height = self.width = self.channels = 0

    def read(self, batch: pa.Table, start: int) -> tuple[dict[str, pa.Array], list[list[bytes]]]:
        """The column `image` (PNG) and, per row, the shape and pixel bytes that its hash covers."""
        encoded, contents = [], []
        for offset, value in enumerate(plain(batch.column(self.column))):
            try:
                pixels = to_pixels(value.as_py())
            except ValueError as error:
                where = f"{self.split}: image column {self.column!r}, row {start + offset}"
                raise TaskError(f"{where}: {error}") from None
            self._remember(pixels)
            encoded.append(to_png(pixels))
            contents.append([repr(pixels.shape).encode(), pixels.tobytes()])
        return {"image": pa.array(encoded, pa.binary())}, contents

    def _remember(self, pixels: Pixels) -> None:
        self.height = max(self.height, pixels.shape[0])
        self.width = max(self.width, pixels.shape[1])
        self.channels = max(self.channels, 3 if pixels.ndim == 3 else 1)

    def finish(self) -> None:
        """Nothing is left to check: a bad image stops at its row."""


def to_pixels(value: Any) -> Pixels:
    """One image as uint8 [H, W] (grey) or [H, W, 3] (RGB).

    Args:
        value: encoded bytes; `{bytes, path}` (Hugging Face `Image`); or nested lists of numbers, [H, W],
            [H, W, 1 or 3] or [1 or 3, H, W], integers 0..255 or floats 0..1.

    Raises:
        ValueError: says what is wrong with it.
    """
    if isinstance(value, dict) and "bytes" in value:
        value = value["bytes"] if value["bytes"] is not None else _bytes_of_path(value.get("path"))
    if value is None:
        raise ValueError("the image is missing; remove this row")
    if isinstance(value, bytes):
        return _decode(value)
    if isinstance(value, list):
        return _from_numbers(value)
    raise ValueError(
        f"expected encoded bytes, a struct of bytes and path, or nested numbers, found {type(value).__name__}"
    )


def _bytes_of_path(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"holds only a path, which cannot be read: {error}; embed the bytes") from None


def _decode(data: bytes) -> Pixels:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except Exception as error:  # Pillow's plugins raise almost anything on damaged files
        raise ValueError(f"cannot be decoded ({len(data)} bytes): {error or type(error).__name__}") from None
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError(f"has mode {image.mode}, more than 8 bits a channel; convert it to 8 bits")
    grey = image.mode in ("1", "L", "LA")
    return np.asarray(image.convert("L" if grey else "RGB"))


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
    return np.rint(array).astype(np.uint8)


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


def from_png(data: bytes) -> Pixels:
    """The pixels that `to_png` wrote."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)
