"""Fuzzed data: folders of images by class, images that a file names, and a saved `DatasetDict`."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from datasets import (
    Array2D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    List,
    Value,
    disable_progress_bars,
)

from kdcache.study import Task
from kdcache.tasks.images import to_png
from kdcache.tasks.prepare import prepare_task
from tests.fuzz.caches import edit
from tests.fuzz.caches import put as put_files
from tests.fuzz.harness import Reader, damaged
from tests.fuzz.readers import folder, image_case, text

IMAGES: dict[str, Any] = {"image": "image", "metrics": ["accuracy"]}
ENDS = (".png",) * 6 + (".PNG", ".jpg", ".bmp", ".tif", ".webp", ".txt", "")
ODD_NAMES = (
    "..",
    ".hidden",
    "Thumbs.db",
    "a\nb",
    "x" * 254,
    "é",
    "e\u0301",
    "\x1b[31m",
    "-rf",
    "a b",
    "%s",
    "~",
)


def seeded(rng: Random) -> bytes:
    """A case whose bytes are a seed; its files are made where they are read."""
    return rng.randbytes(8)


def from_seed(data: bytes) -> Random:
    return Random(int.from_bytes(data, "little"))


@cache
def plain_images() -> tuple[bytes, ...]:
    return tuple(to_png(np.full((2, 3), value, np.uint8)) for value in range(8))


def name(rng: Random, end: str = "") -> str:
    """A possible name of a file, mostly a plain one."""
    if rng.random() < 0.9:
        return rng.choice("abcdef") + str(rng.randrange(10)) + end
    odd = rng.choice(ODD_NAMES) if rng.random() < 0.5 else text(rng)
    return odd.replace("/", "").replace("\0", "")[:80] + end or "x"


def put(rng: Random, path: Path, odd: float) -> None:
    """Write an image's file; sometimes something that is no image, or no file."""
    if path.exists() or path.is_symlink() or len(path.name.encode()) > 255:
        return
    if rng.random() >= odd:
        path.write_bytes(rng.choice(plain_images()))
        return
    kind = rng.randrange(9)
    if kind < 3:
        path.write_bytes(image_case(rng))
    elif kind == 3:
        path.write_bytes(rng.choice((b"", b"\0" * 100, b"<svg/>", rng.randbytes(40))))
    elif kind == 4:
        path.mkdir()
    elif kind == 5:
        os.mkfifo(path)
    elif kind == 6:
        path.symlink_to(rng.choice((path.name, "nowhere", "/dev/zero", "/dev/null", "..", ".")))
    elif kind == 7:
        path.write_bytes(b"")
        os.truncate(path, rng.choice((1 << 20, 1 << 29, 1 << 40)))
    else:
        path.write_bytes(damaged(rng, rng.choice(plain_images())))


def _classes(rng: Random, split: Path, odd: float) -> None:
    split.mkdir(parents=True, exist_ok=True)
    names = {*rng.choice((("cat", "dog"), ("cat", "dog", "emu"), ("0", "00"), ("cat",)))}
    if rng.random() < 3 * odd:
        names.add(name(rng))
    for one in sorted(names):
        if one not in ("", ".", ".."):
            (split / one).mkdir(exist_ok=True)
            for number in range(rng.choice((1, 2, 3)) if rng.random() > odd else 0):
                put(rng, split / one / f"{number}{rng.choice(ENDS) if rng.random() < odd else '.png'}", odd)
    if rng.random() < odd:
        put(rng, split / name(rng, rng.choice(ENDS)), 0.5)


def read_folder(data: bytes) -> object:
    """Prepare a folder of images. In half of the cases classes, names and files are odd."""
    rng = from_seed(data)
    odd = rng.choice((0, 0.03, 0.1, 0.4))
    with folder() as place:
        top = place / "images"
        for split in ("train", rng.choice(("val", "test", "x")) if rng.random() < odd else "validation"):
            _classes(rng, top / split, odd)
        if rng.random() < odd:
            (top / "unlabelled").symlink_to(rng.choice((top, top / "train", place / "nowhere")))
        one = rng.random() < 0.7
        parts = {split: str(top / split) for split in ("train", "validation")}
        return prepare_task(
            Task.model_validate({"source": {"folder": str(top) if one else parts}, "image": "image",
                                 "label": "label", "metrics": ["accuracy"]}),
            place / "task",
        )  # fmt: skip


def _named(rng: Random, place: Path, odd: float) -> str:
    """A path to an image as a file would name it; mostly the image exists."""
    if rng.random() < odd / 2:
        ways = (
            "",
            " ",
            "nowhere.png",
            "../images/0.png",
            "/dev/zero",
            "https://example.org/a.png",
            ".",
            "a\0b",
            "~/a.png",
        )
        return rng.choice((*ways, "x" * 5000, "a/" * 3000, text(rng), str(place / "images" / "0.png")))
    one = rng.choice(("0.png", "1.png", "2.png", name(rng, rng.choice(ENDS))))
    if one not in ("", ".", ".."):
        put(rng, place / "images" / one, odd)
    return f"images/{one}"


def read_named(data: bytes) -> object:
    """Prepare a CSV or JSON Lines file whose image column has paths."""
    rng = from_seed(data)
    odd = rng.choice((0, 0.03, 0.1, 0.4))
    with folder() as place:
        (place / "images").mkdir()
        rows = [
            {"image": _named(rng, place, odd), "label": str(k % 2)} for k in range(rng.choice((2, 3, 20)))
        ]
        if rng.random() < 0.5:
            path, content = place / "case.csv", _as_csv(rows)
        else:
            path, content = place / "case.jsonl", _as_json(rng, rows, odd)
        path.write_bytes(damaged(rng, content) if rng.random() < odd else content)
        files = {"train": str(path), "validation": str(path)}
        return prepare_task(Task.model_validate({"source": {"files": files}, **IMAGES}), place / "task")


def _as_csv(rows: list[dict[str, str]]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ["image", "label"])
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "replace")


def _as_json(rng: Random, rows: list[dict[str, str]], odd: float) -> bytes:
    ways: list[Callable[[str], Any]] = [
        lambda path: {"path": path},
        lambda path: {"path": path, "bytes": None},
    ]
    ways += [lambda path: [path], lambda path: {"bytes": path}, lambda path: None, lambda path: 5]
    way = rng.choice((str, str, str, ways[0], rng.choice(ways)))
    lines = [
        {**row, "image": (rng.choice(ways) if rng.random() < odd / 5 else way)(row["image"])} for row in rows
    ]
    return "\n".join(json.dumps(line) for line in lines).encode()


# ---- a saved DatasetDict ----


@cache
def saved() -> tuple[dict[str, bytes], ...]:
    """The files of several saved ones, by their names."""
    disable_progress_bars()
    labels, rows = ClassLabel(names=["neg", "pos"]), list(range(12))
    texts = [f"text {row}" for row in rows]
    plain = {"text": texts, "label": [row % 2 for row in rows]}
    made = [
        Dataset.from_dict(plain, Features({"text": Value("string"), "label": labels})),
        Dataset.from_dict(plain, Features({"text": Value("large_string"), "label": Value("int64")})),
        Dataset.from_dict({**plain, "label": [str(row % 3) for row in rows]}).select(range(3, 11)),
        Dataset.from_dict({**plain, "label": [row / 3 for row in rows]}).with_format("numpy"),
        Dataset.from_dict({"text": [[[row, 1]] for row in rows], "label": plain["label"]},
                          Features({"text": Array2D((1, 2), "uint8"), "label": labels})),
        Dataset.from_dict({"text": [{"bytes": image, "path": None} for image in plain_images()], "label": [0, 1] * 4},
                          Features({"text": Image(), "label": labels})),
        Dataset.from_dict({"text": [[one] for one in texts], "label": plain["label"]},
                          Features({"text": List(Value("string")), "label": labels})),
    ]  # fmt: skip
    found = []
    for data in made:
        with folder() as place:
            parts = {"train": data, "validation": data}
            DatasetDict(parts).save_to_disk(place, num_shards={"train": 2, "validation": 1})
            files = [path for path in place.rglob("*") if path.is_file()]
            found.append({path.relative_to(place).as_posix(): path.read_bytes() for path in files})
    return tuple(found)


def _changed(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """A damaged file of a saved DatasetDict; JSON mostly gets other values."""
    if content.startswith(b"{") and rng.random() < 0.8:
        with contextlib.suppress(ValueError):  # it is damaged already
            values = json.loads(content)
            edit(rng, values)
            return json.dumps(values).encode()
    return damaged(rng, content, others)


def read_saved(data: bytes) -> object:
    """Prepare a task from a saved DatasetDict."""
    rng = from_seed(data)
    files = dict(rng.choice(saved()))
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        one = rng.choice(sorted(files))
        kind = rng.randrange(8)
        if kind == 0:
            del files[one]
        elif kind == 1:
            files[one] = rng.choice(saved()).get(one, b"")
        else:
            files[one] = _changed(rng, files[one], [files[other] for other in sorted(files)])
    rows = rng.choice(
        ({"text": ["text"], "max_length": 8}, {"text": ["text"], "max_length": 8}, {"image": "text"})
    )
    metrics = rng.choice((["accuracy"], ["accuracy"], ["accuracy"], ["pearson"]))
    with folder() as place:
        put_files(place / "saved", files)
        source = {"saved": str(place / "saved")}
        return prepare_task(
            Task.model_validate({"source": source, **rows, "metrics": metrics}), place / "task"
        )


READERS = (
    Reader("folder of images", seeded, read_folder),
    Reader("named images", seeded, read_named),
    Reader("saved DatasetDict", seeded, read_saved),
)
