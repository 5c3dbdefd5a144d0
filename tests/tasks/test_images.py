"""Images: what is accepted, what their hashes cover, and what each refusal says."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from kdcache.errors import TaskError
from kdcache.hashing.digests import digest
from kdcache.modelling.encoding import from_png
from kdcache.tasks.images import ImageReader, to_pixels, to_png


def png(array: Any, mode: str | None = None, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(array, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(buffer, format=form)
    return buffer.getvalue()


GREY = [[0, 128], [255, 7], [1, 2]]
RGB = [[[0, 1, 2], [3, 4, 5]], [[250, 251, 252], [6, 7, 8]]]


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5))))
def test_png_is_lossless(pixels: Any) -> None:
    assert np.array_equal(from_png(to_png(pixels)), pixels)
    colour = np.stack([pixels, pixels, 255 - pixels], axis=2)
    assert np.array_equal(from_png(to_png(colour)), colour)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (png(GREY), GREY),
        (png(RGB), RGB),
        ({"bytes": png(RGB), "path": None}, RGB),
        (png(GREY, form="BMP"), GREY),
        (png(RGB, mode="RGBA"), RGB),
        (GREY, GREY),
        (RGB, RGB),
        ([[[7], [8]]], [[7, 8]]),
        (np.transpose(RGB, (2, 0, 1)).tolist(), RGB),
        ([[0.0, 1.0], [0.2, 0.6]], [[0, 255], [51, 153]]),  # 0.2 * 255 = 51, 0.6 * 255 = 153
        (np.float16([[128 / 255, 1 / 255]]).tolist(), [[128, 1]]),  # as a 16-bit float keeps them
    ],
)
def test_images_that_are_read(value: Any, expected: Any) -> None:
    pixels = to_pixels(value)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == expected


def test_an_image_by_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(GREY))
    assert to_pixels({"bytes": None, "path": str(tmp_path / "a.png")}).tolist() == GREY
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("b.png", "pipe.png", "a\0b", "x" * 9000):
        with pytest.raises(ValueError, match="holds only a path, which cannot be read") as refused:
            to_pixels({"bytes": None, "path": str(tmp_path / name)})
        assert len(str(refused.value)) < 500


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"no image", r"cannot be decoded \(8 bytes\)"),
        (png(RGB)[:40], "cannot be decoded"),
        (b"", r"cannot be decoded \(0 bytes\)"),
        (None, "the image is missing"),
        ({"bytes": None, "path": None}, "the image is missing"),
        ("a.png", "found str"),
        ([[0.5, NAN]], "NaN or infinite"),
        ([[INF, 0.5]], "NaN or infinite"),
        ([[0, 256]], r"integers 0\.\.255 or floats 0\.\.1"),
        ([[-1, 0]], r"integers 0\.\.255"),
        ([[0.0, 1.5]], r"floats 0\.\.1"),
        ([[0.5, 0.0]], "between the 256 levels k/255 of 8 bits"),  # 127.5
        ([[0.2, 0.2005]], "between the 256 levels"),
        ([[1, 2], [3]], "different lengths"),
        ([[1, None]], "missing or are no numbers"),
        ([["a"]], "no numbers"),
        ([1, 2, 3], r"found \[3\]"),
        ([], "found"),
        (np.zeros((4, 4, 2), dtype=int).tolist(), r"found \[4, 4, 2\]"),
    ],
)
def test_images_that_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_pixels(value)


def test_a_bad_image_is_named_by_its_row() -> None:
    reader = ImageReader("train", "img")
    arrays, digests = reader.read(pa.table({"img": [png(GREY), png(RGB)]}), 0, np.array([7, 8]))
    assert (reader.height, reader.width, reader.channels) == (3, 2, 3)
    assert from_png(arrays["image"][0].as_py()).tolist() == GREY
    assert digests[0].tobytes() == digest([b"(3, 2)", bytes([0, 128, 255, 7, 1, 2])], 7)
    assert digests[1].tobytes() == digest([b"(2, 2, 3)", bytes(np.ravel(RGB).tolist())], 8)
    with pytest.raises(TaskError, match=r"train: image column 'img', row 3: cannot be decoded"):
        reader.read(pa.table({"img": [png(GREY), b"x"]}), 2, None)
