"""Labels, texts and images: what is accepted, and what each refusal says."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from kdcache.errors import TaskError
from kdcache.modelling.encoding import from_png
from kdcache.tasks.columns import listed, plain
from kdcache.tasks.images import ImageReader, to_pixels, to_png
from kdcache.tasks.labels import read_labels
from kdcache.tasks.texts import TextReader


def labels(train: Any, validation: Any, names: list[str] | None = None, regression: bool = False) -> Any:
    columns = {"train": pa.chunked_array([train]), "validation": pa.chunked_array([validation])}
    return read_labels(columns, names, regression)


def test_strings_become_the_sorted_names_of_train() -> None:
    found = labels(["sad", "happy", "sad", "angry"], ["happy", "angry"])
    assert found.names == ["angry", "happy", "sad"]
    assert found.values["train"].tolist() == [2, 1, 2, 0]
    assert found.values["validation"].tolist() == [1, 0]
    assert found.values["train"].dtype == np.int64


def test_strings_of_pandas_categoricals_and_large_strings() -> None:
    train = pa.array(["b", "a"]).dictionary_encode()
    found = labels(train, pa.array(["a"], pa.large_string()))
    assert found.names == ["a", "b"]
    assert found.values["train"].tolist() == [1, 0]


def test_string_labels_follow_declared_names() -> None:
    found = labels(["yes", "no"], ["no"], names=["yes", "no"])
    assert found.names == ["yes", "no"]
    assert found.values["train"].tolist() == [0, 1]


def test_a_string_label_that_train_lacks() -> None:
    with pytest.raises(
        TaskError, match=r"validation: labels that train does not have: c, d \(train has a, b\)"
    ):
        labels(["a", "b"], ["a", "d", "c"])


def test_an_empty_string_label() -> None:
    with pytest.raises(TaskError, match=r"train: the label is an empty text in 1 row \(row 1\)"):
        labels(["a", " ", "b"], ["a"])


def test_integers_name_themselves() -> None:
    found = labels([1, 0, 2], pa.array([2], pa.int8()))
    assert found.names == ["0", "1", "2"]
    assert found.values["validation"].dtype == np.int64


def test_booleans_are_two_classes() -> None:
    found = labels([True, False], [True])
    assert found.names == ["false", "true"]
    assert found.values["train"].tolist() == [1, 0]


@pytest.mark.parametrize(("train", "validation", "found"), [([1, 2], [1], "1, 2"), ([0, 2], [5], "0, 2, 5")])
def test_integers_with_gaps_are_listed(train: list[int], validation: list[int], found: str) -> None:
    with pytest.raises(TaskError, match=f"0..K-1 without gaps, found {found}; renumber"):
        labels(train, validation)


def test_a_class_absent_from_train() -> None:
    with pytest.raises(TaskError, match=r"train: no row of class 2 \(classes: 0, 1, 2\)"):
        labels([0, 1], [0, 1, 2])
    with pytest.raises(TaskError, match=r"train: no row of classes no, maybe"):
        labels([0, 0], [1], names=["yes", "no", "maybe"])


def test_a_label_outside_the_declared_names() -> None:
    with pytest.raises(TaskError, match=r"validation: label 3 is outside the 2 declared classes \(a, b\)"):
        labels([0, 1], [3], names=["a", "b"])


def test_one_class_is_no_classification() -> None:
    with pytest.raises(TaskError, match="at least two classes, train has 0"):
        labels([0, 0], [0])


def test_hidden_labels() -> None:
    with pytest.raises(
        TaskError, match=r"validation: the label is -1 in 2 rows \(row 0, 1\), which means hidden"
    ):
        labels([0, 1], [-1, -1], names=["a", "b"])
    with pytest.raises(TaskError, match=r"train: negative labels in 1 row \(row 1\)"):
        labels([0, -7], [0])


def test_missing_labels() -> None:
    with pytest.raises(TaskError, match=r"train: the label is missing in 1 row \(row 1\)"):
        labels([0, None, 1], [0])
    with pytest.raises(TaskError, match=r"validation: the label is missing in 2 rows"):
        labels([0.5], pa.array([None, None], pa.float32()), regression=True)


def test_many_rows_are_cut_in_the_message() -> None:
    with pytest.raises(TaskError, match=r"in 30 rows \(row 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\)"):
        labels(pa.array([None] * 30, pa.int64()), [0])


def test_floats_only_for_a_regression() -> None:
    with pytest.raises(TaskError, match=r"train: the labels are double; .* pearson or spearman"):
        labels([0.0, 1.0], [0.0])
    found = labels(pa.array([0.5, 1], pa.float32()), pa.array([2]), regression=True)
    assert found.names == []
    assert found.values["train"].tolist() == [0.5, 1.0]
    assert found.values["validation"].dtype == np.float64


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_regression_refuses_nan_and_infinity(bad: float) -> None:
    with pytest.raises(TaskError, match=r"validation: the label is NaN or infinite in 1 row \(row 1\)"):
        labels([0.5], [0.5, bad], regression=True)


def test_a_regression_refuses_text() -> None:
    with pytest.raises(TaskError, match="train: a regression needs numbers as labels, found string"):
        labels(["a"], ["b"], regression=True)


def test_types_that_differ_or_do_not_fit() -> None:
    with pytest.raises(TaskError, match="different types: integer in train, string in validation"):
        labels([0, 1], ["a"])
    with pytest.raises(TaskError, match="does not fit 64 bits"):
        labels(pa.array([2**64 - 1], pa.uint64()), pa.array([0], pa.uint64()))
    with pytest.raises(TaskError, match=r"train: the labels are list<"):
        labels(pa.array([[1]]), pa.array([[1]]))


@given(st.lists(st.sampled_from("abcde"), min_size=2).filter(lambda found: len(set(found)) > 1))
def test_string_labels_can_be_read_back(values: list[str]) -> None:
    found = labels(values, values[:1])
    assert [found.names[index] for index in found.values["train"]] == values


def test_listed_cuts_long_lists() -> None:
    assert listed([1, 2], 2) == "1, 2"
    assert listed([1, 2, 3], 2) == "1, 2, ... (3 in all)"


def test_texts_and_their_bytes() -> None:
    reader = TextReader("train", ["a", "b"])
    arrays, _ = reader.read(pa.table({"a": ["x ", "é"], "b": ["1", "2"]}), 0)
    reader.finish()
    assert arrays["text"].to_pylist() == ["x ", "é"]
    assert arrays["text_pair"].to_pylist() == ["1", "2"]


def test_empty_texts_are_refused_together() -> None:
    reader = TextReader("validation", ["a"])
    reader.read(pa.table({"a": ["ok", "", " \n\t"]}), 0)
    reader.read(pa.table({"a": [None, "ok"]}), 3)
    with pytest.raises(TaskError, match=r"validation: text column 'a' is empty in 3 rows \(row 1, 2, 3\)"):
        reader.finish()


def test_a_text_column_of_numbers_or_only_nulls() -> None:
    with pytest.raises(TaskError, match="train: text column 'a' holds int64, expected strings"):
        TextReader("train", ["a"]).read(pa.table({"a": [1]}), 0)
    reader = TextReader("train", ["a"])
    reader.read(pa.table({"a": pa.nulls(2)}), 0)
    with pytest.raises(TaskError, match="empty in 2 rows"):
        reader.finish()


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
        ([[0.0, 1.0], [0.2, 0.5]], [[0, 255], [51, 128]]),  # 0.2 * 255 = 51; 127.5 rounds to even, 128
    ],
)
def test_images_that_are_read(value: Any, expected: Any) -> None:
    pixels = to_pixels(value)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == expected


def test_an_image_by_path(tmp_path: Any) -> None:
    (tmp_path / "a.png").write_bytes(png(GREY))
    assert to_pixels({"bytes": None, "path": str(tmp_path / "a.png")}).tolist() == GREY
    with pytest.raises(ValueError, match="holds only a path, which cannot be read"):
        to_pixels({"bytes": None, "path": str(tmp_path / "b.png")})


def test_a_rotated_photo_is_turned_upright() -> None:
    image = Image.fromarray(np.asarray(GREY, dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 3  # orientation: upside down
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", exif=exif)
    assert to_pixels(buffer.getvalue()).tolist() == np.rot90(GREY, 2).tolist()


NAN, INF = float("nan"), float("inf")
SIXTEEN = io.BytesIO()
Image.fromarray(np.array([[1000]], dtype=np.uint16)).save(SIXTEEN, format="PNG")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"no image", r"cannot be decoded \(8 bytes\)"),
        (png(RGB)[:40], "cannot be decoded"),
        (b"", r"cannot be decoded \(0 bytes\)"),
        (SIXTEEN.getvalue(), "more than 8 bits a channel"),
        (None, "the image is missing"),
        ({"bytes": None, "path": None}, "the image is missing"),
        ("a.png", "found str"),
        ([[0.5, NAN]], "NaN or infinite"),
        ([[INF, 0.5]], "NaN or infinite"),
        ([[0, 256]], r"integers 0\.\.255 or floats 0\.\.1"),
        ([[-1, 0]], r"integers 0\.\.255"),
        ([[0.0, 1.5]], r"floats 0\.\.1"),
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
    arrays, parts = reader.read(pa.table({"img": [png(GREY), png(RGB)]}), 0)
    assert (reader.height, reader.width, reader.channels) == (3, 2, 3)
    assert from_png(arrays["image"][0].as_py()).tolist() == GREY
    assert parts[0] == [b"(3, 2)", bytes([0, 128, 255, 7, 1, 2])]
    with pytest.raises(TaskError, match=r"train: image column 'img', row 3: cannot be decoded"):
        reader.read(pa.table({"img": [png(GREY), b"x"]}), 2)


def test_extension_types_are_read_by_their_storage() -> None:
    kind = pa.fixed_shape_tensor(pa.uint8(), [1, 2])
    storage = pa.array([[1, 2]], pa.list_(pa.uint8(), 2))
    column = pa.chunked_array([pa.ExtensionArray.from_storage(kind, storage)])
    assert plain(column).to_pylist() == [[1, 2]]
