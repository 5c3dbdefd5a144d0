"""Images that are files of their own: in folders, or named in a column of CSV, JSON Lines or Parquet.

All files are looked at before any is decoded, so that a missing file is reported at once.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from kdcache.errors import TaskError
from kdcache.tasks.columns import is_text, shown
from kdcache.tasks.images import LARGEST
from kdcache.tasks.rows import BATCH, TOGETHER, Batches, Rows

LONGEST = 300  # characters of a path in a message
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as Hugging Face has it


class ImageFile(NamedTuple):
    """An image's file, and its size in bytes."""

    path: str
    size: int


def named_images(origin: str, rows: Rows, column: str, folder: Path) -> Rows:
    """Replace the paths in an image column, which count from `folder`, by files; embedded images stay as they are.

    Raises:
        TaskError: a path is missing, or names no image file; the message names the row.
    """
    first = next(rows.batches(), None)
    if first is None:
        return rows
    kind, origin = first.schema.field(column).type, f"{origin}: image column {column!r}"
    if _may_have_paths(kind):
        return replace(rows, batches=partial(_with_paths, origin, rows.batches, column, folder))
    if not _has_paths(kind):
        return rows
    files: list[ImageFile] = []
    for batch in rows.batches():
        for value in batch.column(column).to_pylist():
            name = value.get("path") if isinstance(value, dict) else value
            files.append(_named_file(f"{origin}, row {len(files)}", folder, name))
    return Rows(rows.label, rows.names, image_batches(column, files))


def _has_paths(kind: pa.DataType) -> bool:
    """Whether a column has texts, or objects with a path and no bytes."""
    if not pa.types.is_struct(kind):
        return is_text(kind)
    fields = {field.name: field.type for field in kind}
    return is_text(fields.pop("path", pa.null())) and fields in ({}, {"bytes": pa.null()})


def _may_have_paths(kind: pa.DataType) -> bool:
    """Whether a column has objects of bytes and path, of which some rows may have the path alone."""
    fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    return is_text(fields.get("path", pa.null())) and fields.get("bytes", pa.null()) != pa.null()


def _with_paths(origin: str, batches: Batches, column: str, folder: Path) -> Iterator[pa.Table]:
    """The rows, with a whole path where a row has a path and no bytes."""
    start = 0
    for batch in batches():
        images = batch.column(column)
        if pc.struct_field(images, "bytes").null_count:
            values = images.to_pylist()
            for row, value in enumerate(values, start):
                if value and value["bytes"] is None and value["path"] is not None:
                    value["path"] = _named_file(f"{origin}, row {row}", folder, value["path"]).path
            position = batch.schema.get_field_index(column)
            yield batch.set_column(position, column, pa.array(values, images.type))
        else:
            yield batch
        start += batch.num_rows


def _named_file(context: str, folder: Path, name: str | None) -> ImageFile:
    if not name:
        raise TaskError(f"{context}: the image is missing; remove this row")
    if "://" in name:
        raise TaskError(f"{context}: {shown(name)} is an address; download the image and name its file")
    return image_file(context, folder / name, f" ({shown(name)} counts from {folder})")


def image_file(context: str, path: Path, note: str = "") -> ImageFile:
    """The path and the bytes of a file that may be an image; it is not opened.

    Raises:
        TaskError: there is no such file, or it cannot be an image: a pipe, empty, larger than any image.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        link = "leads to a file that does not exist" if path.is_symlink() else "the file does not exist"
        raise TaskError(f"{context}: {shown_path(path)}: {link}{note}") from None
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise TaskError(f"{context}: {shown_path(path)}: cannot be read: {reason}") from None
    if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device may never end
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise TaskError(f"{context}: {shown_path(path)}: is {kind}; expected an image file")
    if status.st_size == 0:
        raise TaskError(f"{context}: {shown_path(path)}: the file is empty; remove or replace it")
    if status.st_size > LARGEST:
        raise TaskError(
            f"{context}: {shown_path(path)}: has {status.st_size:,} bytes, more than {LARGEST:,}; make it smaller"
        )
    return ImageFile(str(path), status.st_size)


def shown_path(path: Path) -> str:
    """A path in a message: in quotes if it has invisible characters, and cut if it is long."""
    text = str(path)
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return short if text.isprintable() and text == text.strip() else repr(short)


def image_batches(column: str, files: Sequence[ImageFile]) -> Batches:
    """The files in batches, each a column of structs with their paths; large files come few at a time."""
    return partial(_batches, column, files)


def _batches(column: str, files: Sequence[ImageFile]) -> Iterator[pa.Table]:
    batch: list[dict[str, Any]] = []
    size = 0
    for file in files:
        batch.append({"bytes": None, "path": file.path})
        size += file.size
        if size >= TOGETHER or len(batch) == BATCH:
            yield pa.table({column: pa.array(batch, IMAGE)})
            batch, size = [], 0
    if batch:
        yield pa.table({column: pa.array(batch, IMAGE)})
