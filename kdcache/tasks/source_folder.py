"""Rows from folders of images: `<split>/<class>/<image>`."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdcache.errors import TaskError
from kdcache.study import UNLABELLED, Task
from kdcache.tasks.columns import shown, shown_all
from kdcache.tasks.image_files import ImageFile, image_batches, image_file
from kdcache.tasks.rows import Loaded, Rows, no_labels

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LITTER = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
}  # what systems leave in folders, in lower case
COLUMN = "image"
OTHER_NAMES = {"val": "validation", "valid": "validation", "dev": "validation", "test": "validation"}


def load_folder(task: Task) -> Loaded:
    """The rows of a folder of images; each split is in the order of its classes, then of the files' names.

    Raises:
        TaskError: a folder is missing or has another layout, or a file in it is no image; the message names it.
    """
    splits: dict[str, Rows] = {}
    resolved: dict[str, Any] = {}
    for split in task.source.split_names:
        (path,) = task.source.places[split]
        if isinstance(task.source.folder, str):
            _check_split(split, path.parent)
        splits[split] = _open_split(split, path)
        resolved[split] = {"folder": path.as_posix(), "images": len(splits[split].label)}
    return Loaded(splits, {"folder": resolved})


def _open_split(split: str, folder: Path) -> Rows:
    """The images of a split, from the folders of their classes; images without labels lie in the folder itself."""
    origin = f"{split}: {folder}"
    if split == UNLABELLED:
        unlabelled = _images(origin, folder)
        return Rows(no_labels(len(unlabelled)), None, image_batches(COLUMN, unlabelled))
    files: list[ImageFile] = []
    labels: list[str] = []
    for entry in _classes(origin, folder):
        images = _images(f"{origin}: class {shown(entry.name)}", entry)
        files += images
        labels += [_name(entry)] * len(images)
    label = pa.chunked_array([pa.array(labels, pa.string())])
    return Rows(label, None, image_batches(COLUMN, files))


def _check_split(split: str, parent: Path) -> None:
    """Refuse a folder of splits that lacks this one; the message says what is there instead."""
    if not parent.is_dir():
        raise TaskError(f"{parent}: {_not_a_folder(parent)}")
    if (parent / split).is_dir():
        return
    folders = [entry.name for entry in _entries(parent) if entry.is_dir()]
    other = next((name for name in folders if OTHER_NAMES.get(name.casefold()) == split), None)
    advice = (
        f"to take {other!r} for it, write `folder: {{train: {parent / 'train'}, {split}: {parent / other}}}`"
        if other
        else "expected train/ and validation/ with a folder for each class in both; or give the two folders as "
        "`folder: {train: ..., validation: ...}`"
    )
    raise TaskError(
        f"{parent}: has no folder {split!r}; the folders in it: {shown_all(folders) or 'none'}; {advice}"
    )


def _classes(origin: str, folder: Path) -> list[Path]:
    """The folders of the classes, in the order of their names."""
    entries = _entries(folder, origin)
    files = [entry for entry in entries if not entry.is_dir()]
    if files:
        raise TaskError(
            f"{origin}: {shown(files[0].name)} is no folder; expected a folder for each class, and the images in those"
        )
    if not entries:
        raise TaskError(f"{origin}: the folder is empty; expected a folder for each class")
    return entries


def _images(origin: str, folder: Path) -> list[ImageFile]:
    """The image files of a folder, each looked at, in the order of their names."""
    entries = _entries(folder, origin)
    for entry in entries:
        if entry.is_dir():
            raise TaskError(
                f"{origin}: has a folder {shown(entry.name)}; expected images alone (one folder for each class, "
                "none within it)"
            )
        if entry.suffix.lower() not in SUFFIXES:
            raise TaskError(
                f"{origin}: {shown(entry.name)} is not named as an image ({', '.join(SUFFIXES)}); remove it, or "
                "convert it to PNG"
            )
    if not entries:
        raise TaskError(f"{origin}: there are no images; remove the folder, or put images into it")
    return [image_file(origin, entry) for entry in entries]


def _entries(folder: Path, origin: str = "") -> list[Path]:
    """A folder's entries, in one order on every machine, without hidden files and those that systems leave there."""
    origin = origin or str(folder)
    try:
        entries = [entry for entry in folder.iterdir() if not _is_litter(entry.name)]
    except OSError as error:
        is_folder = folder.is_dir()
        reason = f"cannot be read: {error.strerror}" if is_folder else _not_a_folder(folder)
        raise TaskError(f"{origin}: {reason}") from None
    for entry in entries:
        _check_name(origin, entry.name)
    return sorted(entries, key=lambda entry: (_name(entry), entry.name))


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _check_name(origin: str, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise TaskError(f"{origin}: the name {ascii(name)[:80]} is not in UTF-8; rename it") from None


def _name(entry: Path) -> str:
    """The name of a class or a file, in one encoding: macOS separates letters from accents, other systems do not."""
    return unicodedata.normalize("NFC", entry.name)


def _not_a_folder(path: Path) -> str:
    if path.exists():
        return "is a file; expected a folder"
    hint = "; ~ is no home folder here" if str(path).startswith("~") else ""
    return f"the folder does not exist (paths count from the working directory{hint})"
