"""Fuzzed files: params.yaml, CSV, JSON Lines, Parquet and images, each with odd and with damaged inputs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from kdcache.errors import TaskError
from kdcache.study import Task, load_study
from kdcache.tasks.images import to_pixels, to_png
from kdcache.tasks.prepare import prepare_task
from tests.fuzz.harness import Reader, damaged

ODD_TEXTS = (
    *(
        "",
        " ",
        "\t",
        "a",
        "b",
        "good film",
        "pos",
        "neg",
        "pos ",
        "Pos",
        "é",
        "😀",
        "\u2028",
        "\ufeff",
        "\0",
        "\r\n",
    ),
    *(
        '"',
        '""',
        ",",
        ";",
        "a,b",
        "NA",
        "null",
        "nan",
        "inf",
        "-1",
        "0",
        "00",
        "1",
        "1.5",
        "1e999",
        "2020-01-01",
    ),
    *(
        "true",
        "~",
        "x" * 300,
        "1" * 40,
        "- a",
        "{a: b}",
        "&a",
        "*a",
        "#",
        "text",
        "label",
        "\x85",
        "\x1b[31m",
    ),
)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder for a case. Nothing is flushed to the disk, which would take most of the time."""
    flush, os.fsync = os.fsync, lambda descriptor: None
    try:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
    finally:
        os.fsync = flush


def text(rng: Random) -> str:
    if rng.random() < 0.8:
        return rng.choice(ODD_TEXTS)
    return "".join(
        chr(rng.choice((rng.randrange(128), rng.randrange(0xD800)))) for _ in range(rng.randrange(9))
    )


# Rows

ROWS = {"text": ["text"], "max_length": 8, "metrics": ["accuracy"]}
TASKS = (ROWS, ROWS, {**ROWS, "metrics": ["pearson"]}, {"image": "text", "metrics": ["accuracy"]})


def prepare(suffix: str) -> Callable[[bytes], object]:
    """Prepare a task whose file is the case: a classification, a regression, or a task of images."""

    def read(data: bytes) -> object:
        with folder() as place:
            case = place / f"case{suffix}"
            case.write_bytes(data)
            files = {"train": str(case), "validation": str(case)}
            task = Task.model_validate({"source": {"files": files}, **TASKS[len(data) % len(TASKS)]})
            return prepare_task(task, place / "task")

    return read


def csv_case(rng: Random) -> bytes:
    buffer = io.StringIO(newline="")
    end, quoting = rng.choice(("\n", "\r\n", "\r")), rng.choice((csv.QUOTE_ALL, csv.QUOTE_MINIMAL))
    writer = csv.writer(buffer, lineterminator=end, quoting=quoting)
    header = rng.choice(
        (["text", "label"], ["text", "label"], ["label", "more", "text"], [text(rng), "label"])
    )
    labels = rng.choice((["pos", "neg"], ["0", "1"], ["0", "1"], ["0.5", "2"], [text(rng), text(rng)]))
    writer.writerow(header)
    for row in range(rng.choice((1, 2, 3, 20, 20))):
        cells = {"text": f"text {row} {text(rng)}", "label": labels[row % 2]}
        writer.writerow([cells.get(name, text(rng)) for name in header])
    encoding = rng.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16", "utf-16-le", "latin-1"))
    data = buffer.getvalue().encode(encoding, "replace")
    return data if rng.random() < 0.4 else damaged(rng, data)


def _json_value(rng: Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind < 3:
        return text(rng)
    if kind < 6:
        return rng.choice(
            (0, 1, -1, 0.5, True, False, None, 2**63, -(2**64), 1e300, float("nan"), float("inf"))
        )
    if kind == 6:
        return {text(rng): _json_value(rng, depth + 1) for _ in range(rng.randrange(3))}
    return [_json_value(rng, depth + 1) for _ in range(rng.randrange(4))]


def json_case(rng: Random) -> bytes:
    odd, labels = rng.choice((0, 0, 0.05, 0.5)), rng.choice(((0, 1), ("a", "b"), (0.5, 2), (True, False)))
    rows: list[Any] = []
    for row in range(rng.choice((1, 2, 3, 20, 20))):
        item = {"text": f"text {row} {text(rng)}", "label": labels[row % 2]}
        if rng.random() < odd:
            item[rng.choice(("text", "label", text(rng)))] = _json_value(rng)
        rows.append(item if rng.random() > odd / 10 else _json_value(rng))
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
    if rng.random() < 0.1:
        depth = rng.choice((50, 500, 900, 5000, 100_000))
        lines.append(f'{{"{rng.choice(("text", "label", "x"))}": {"[" * depth}1{"]" * depth}, "label": 0}}')
    if rng.random() < 0.1:
        lines.append(json.dumps({rng.choice(("text", "label", "x")): "\ud83d" + text(rng)}))
    data = rng.choice(("\n", "\r\n", "\n\n")).join(lines).encode()
    return data if rng.random() < 0.4 else damaged(rng, data)


def _columns(rng: Random, rows: int) -> dict[str, pa.Array]:
    texts = [f"{row} {text(rng)}" for row in range(rows)]
    numbers = [row % 2 for row in range(rows)]
    raw = pa.array([value.encode() for value in texts], pa.binary())
    unchecked = pa.array([b"\xff\xfe%d" % row for row in range(rows)])
    image = [to_png(np.full((2, 3), number * 9, np.uint8)) for number in numbers]
    choices: list[Callable[[], pa.Array]] = [
        lambda: pa.array(image),
        lambda: pa.array([{"bytes": value, "path": None} for value in image]),
        lambda: pa.array([[[number, 255]] for number in numbers]),
        lambda: pa.array([[[number / 255, 1.0]] for number in numbers]),
        lambda: pa.array(texts),
        lambda: pa.array(texts, pa.large_string()),
        lambda: pa.array(texts).dictionary_encode(),
        lambda: pa.array(numbers),
        lambda: pa.array(numbers).dictionary_encode(),
        lambda: pa.array(numbers, pa.uint64()),
        lambda: pa.array([number == 1 for number in numbers]),
        lambda: pa.array([number / 3 for number in numbers], pa.float32()),
        lambda: pa.array([np.float16(number) for number in numbers], pa.float16()),
        lambda: pa.array([Decimal(number) / 8 for number in numbers], pa.decimal128(30, 5)),
        lambda: pa.array(numbers, pa.date32()),
        lambda: pa.array(numbers, pa.timestamp("ns", "UTC")),
        lambda: pa.array(numbers, pa.duration("s")),
        lambda: raw,
        lambda: pa.Array.from_buffers(pa.string(), rows, unchecked.buffers()),
        lambda: pa.nulls(rows),
        lambda: pa.array([None, *texts[1:]]),
        lambda: pa.array([[number] for number in numbers]),
        lambda: pa.array([[value, None] for value in texts], pa.list_(pa.string(), 2)),
        lambda: pa.array([{"bytes": value.encode(), "path": value} for value in texts]),
        lambda: pa.array([{"bytes": None, "path": value} for value in texts]),
        lambda: pa.array(
            [[(value, number)] for value, number in zip(texts, numbers, strict=True)],
            pa.map_("string", "int8"),
        ),
    ]
    usual = {"text": pa.array(texts), "label": pa.array(numbers)}
    return {name: column if rng.random() < 0.7 else rng.choice(choices)() for name, column in usual.items()}


def parquet_case(rng: Random) -> bytes:
    table = pa.table(_columns(rng, rng.choice((1, 2, 3, 50))))
    if rng.random() < 0.3:
        feature = rng.choice(
            ({"_type": "ClassLabel", "names": rng.choice((["a", "b"], ["a", "a"], [text(rng)], 3, None))}, 3)
        )
        info = json.dumps({"info": {"features": {"label": feature}}})
        table = table.replace_schema_metadata(
            {"huggingface": rng.choice((info, info, info[:-3], "[" * 9999))}
        )
    buffer = io.BytesIO()
    options = {"compression": rng.choice(("snappy", "zstd", "none")), "use_dictionary": rng.random() < 0.5}
    pq.write_table(table, buffer, row_group_size=rng.choice((1, 7, 1000)), **options)
    data = buffer.getvalue()
    return data if rng.random() < 0.4 else damaged(rng, data)


# Images


def _picture(rng: Random) -> Image.Image:
    mode = rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr", "PA"))
    size = rng.choice(((1, 1), (3, 2), (16, 16), (33, 9)))
    channels = {"1": 1, "I;16": 2, "I": 4, "F": 4}.get(mode, len(Image.new(mode, (1, 1)).getbands()))
    image = Image.frombytes("L", size, rng.randbytes(size[0] * size[1])).convert("1") if mode == "1" else None
    image = image or Image.frombytes(mode, size, rng.randbytes(size[0] * size[1] * channels))
    if mode == "P":
        image.putpalette(rng.randbytes(3 * rng.choice((2, 16, 256))))
    return image


@cache
def _pictures(form: str) -> tuple[bytes, ...]:
    """Files of a format in each of its modes, with frames, profiles, Exif and transparency."""
    rng, files = Random(form), []
    exif = Image.Exif()
    exif[0x0112] = 6
    for _ in range(120):
        choices: list[dict[str, Any]] = [{}, {"exif": exif.tobytes()}, {"icc_profile": rng.randbytes(200)}]
        choices += [{"transparency": 0}, {"save_all": True, "append_images": [_picture(rng)]}]
        buffer = io.BytesIO()
        with contextlib.suppress(Exception):  # a format refuses what it cannot hold in many ways
            _picture(rng).save(buffer, form, **rng.choice(choices))
            files.append(buffer.getvalue())
    return tuple(files)


FORMS = (
    "PNG",
    "JPEG",
    "BMP",
    "GIF",
    "WEBP",
    "TIFF",
    "PNG",
    "JPEG",
    "TIFF",
    "ICO",
    "PPM",
    "JPEG2000",
    "TGA",
    "MPO",
)


def image_case(rng: Random) -> bytes:
    files = _pictures(rng.choice(FORMS))
    data = rng.choice(files)
    return data if rng.random() < 0.3 else damaged(rng, data, files)


def read_image(data: bytes) -> object:
    """Read pixels of a valid shape; a ValueError becomes the TaskError that the reader of a split would raise."""
    try:
        pixels = to_pixels(data)
    except ValueError as error:
        raise TaskError(str(error)) from None
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 2 or pixels.shape[2:] == (3,)
    assert min(pixels.shape) > 0
    return pixels


# params.yaml

STUDY = """
seeds: [0, 1]
tasks:
  films: {source: {files: {train: [a.csv, b.csv], validation: c.csv}}, text: [text], metrics: [f1], max_length: 8}
  digits: {source: {builtin: digits}, image: image, metrics: [accuracy], augment: {crop: 1}}
teachers:
  big: {checkpoint: models/big, init: pretrained, learning_rate: 1.0e-3, epochs: 1, batch_size: 8}
students:
  small: {checkpoint: models/small, init: scratch, teacher: big, learning_rate: 1.0e-3, epochs: 1, batch_size: 8}
regularizers:
  base: {}
  smooth: {soft_labels: uniform, alpha: 0.1}
distillers:
  kd: {soft_labels: teacher, alpha: {start: 0.9, end: 0.1}, temperature: 2}
comparison: {baseline: base, alpha: 0.05, margin: {f1: 1.0, accuracy: 1.0}, correction: holm}
"""
ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        0.5,
        1.5,
        2**40,
        -(2**70),
        1e308,
        float("inf"),
        float("nan"),
        "",
        " ",
        "no",
        "é",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"a": {}},
        {1: 2},
        [0] * 50,
        "a" * 2000,
        "../..",
        "; touch X",
        "${x}",
        "base",
        "kd",
    ),
)


ODD_YAML = (
    *("2024-13-45", "2024-01-01", "12:30:00", "1e3", "1_000", "0x1F", "0x_", "0o17", "08", ".inf", "1." * 9),
    *(
        "no",
        "~",
        "=",
        "<<",
        "*a",
        "&a",
        "&a [*a]",
        "&a {b: *a}",
        "!!int abc",
        "!!bool maybe",
        "! x",
        "!<x> y",
    ),
    *(
        "!!python/object:os.system {}",
        "!!binary aGk=",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "'",
        '"\\x"',
        '"\\ud83d"',
    ),
    *(
        "| \n  a\n b",
        "> a",
        "? a",
        "- a",
        "{a: b",
        "[a, b",
        "a: b: c",
        "@a",
        "`a",
        "%YAML 1.1",
        "\t",
        "#",
        "---",
        "...",
    ),
    *("9" * 5000, "[" * 500 + "]" * 500, "{a: " * 30 + "}" * 30, "[" + "a, " * 30_000 + "]", "a" * 10_000),
    "[&a [x, x, x, x, x, x, x, x], &b [*a, *a, *a, *a, *a, *a], &c [*b, *b, *b, *b, *b, *b], *c, *c, *c, *c]",
    "{<<: {a: 1}, <<: {b: 2}}",
    "{<<: [1, 2]}",
    "{[a]: b, {c: d}: e}",
)


def params_case(rng: Random) -> bytes:
    if rng.random() < 0.4:
        return damaged(rng, STUDY.encode())
    if rng.random() < 0.3:
        return _with_odd_yaml(rng).encode()
    study = yaml.load(STUDY, yaml.CSafeLoader)
    for _ in range(rng.choice((1, 1, 3))):
        _replace(rng, study)
    return yaml.dump(study, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False).encode()


def _with_odd_yaml(rng: Random) -> str:
    """The study, with a value, a key or a line that has a special meaning in YAML."""
    lines = STUDY.splitlines()
    odd, place = rng.choice(ODD_YAML), rng.randrange(len(lines) + 1)
    if place == len(lines) or rng.random() < 0.2:
        lines.insert(place, odd)
    else:
        words = re.split(r"([\w.]+)", lines[place])
        words[rng.randrange(len(words))] = odd
        lines[place] = "".join(words)
    return "\n".join(lines)


def _replace(rng: Random, node: Any) -> None:
    """Change, remove or add a value somewhere in it."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = rng.choice(keys) if keys else None
    if key is not None and isinstance(node[key], dict | list) and rng.random() < 0.8:
        _replace(rng, node[key])
    elif key is not None and rng.random() < 0.8:
        node[key] = rng.choice(ODD_VALUES)
    elif key is not None and rng.random() < 0.5:
        del node[key]
    elif isinstance(node, dict):
        node[rng.choice(("more", "", "a b", 3, None, "base", "x" * 500))] = rng.choice(ODD_VALUES)
    else:
        node.append(rng.choice(ODD_VALUES))


def read_params(data: bytes) -> object:
    with folder() as place:
        (place / "params.yaml").write_bytes(data)
        return load_study(place / "params.yaml")


READERS = (
    Reader("params.yaml", params_case, read_params),
    Reader("CSV", csv_case, prepare(".csv")),
    Reader("JSON Lines", json_case, prepare(".jsonl")),
    Reader("Parquet", parquet_case, prepare(".parquet")),
    Reader("images", image_case, read_image),
)
