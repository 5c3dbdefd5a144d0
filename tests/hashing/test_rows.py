"""Row hashes of any data: equal to a prepared task's, stable, and different where the content is."""

from __future__ import annotations

import hashlib
import io
import struct
from collections import UserDict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdcache.errors import CacheError
from kdcache.hashing.rows import hash_batch, hash_row, hash_rows
from kdcache.modelling.encoding import from_png
from kdcache.study import Task
from kdcache.tasks.images import to_png
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def blake(content: bytes) -> int:
    """The first 8 bytes of BLAKE2b with 16, little-endian."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest()[:8], "little")


def prepared(folder: Path, columns: dict[str, list[Any]], **task: Any) -> pa.Table:
    """The train split of a task that was prepared from these columns."""
    path = folder / "in.parquet"
    pq.write_table(pa.table(columns), path)
    source = {"files": {"train": str(path), "validation": str(path)}}
    metrics = task.pop("metrics", ["accuracy"])
    prepare_task(Task.model_validate({"source": source, "metrics": metrics, **task}), folder / "task")
    return PreparedTask(folder / "task").rows("train")


def assert_same(table: pa.Table, columns: list[str] | None) -> None:
    expected = table["row_hash"].to_numpy()
    np.testing.assert_array_equal(hash_rows(table, columns, "label"), expected)
    np.testing.assert_array_equal(hash_rows(datasets.Dataset(table), columns, "label"), expected)
    assert [hash_row(row, columns, "label") for row in table.to_pylist()] == expected.tolist()


def test_a_prepared_tasks_texts_have_the_hashes_it_stores(tmp_path: Path) -> None:
    columns = {"text": ["good", "schlecht, naïve 🙂", "so so"], "label": ["a", "b", "a"]}
    table = prepared(tmp_path, columns, text=["text"], max_length=8)
    assert_same(table, ["text"])
    assert_same(table, None)  # all columns but id, row_hash and the label


def test_text_pairs_and_regressions_too(tmp_path: Path) -> None:
    columns = {"one": ["a", "b", "c"], "two": ["x", "y", "z"], "score": [0.5, -0.0, 3.25]}
    table = prepared(tmp_path, columns, text=["one", "two"], label="score", metrics=["pearson"], max_length=8)
    assert_same(table, ["text", "text_pair"])
    assert_same(table, None)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)], ids=["grey", "colour"])
def test_images_too_however_they_come(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    encoded = [{"bytes": to_png(image), "path": None} for image in images]
    table = prepared(tmp_path, {"image": encoded, "label": [0, 1, 0, 1]}, image="image")
    assert_same(table, ["image"])
    stored = table["row_hash"].to_pylist()
    png = to_png(images[1])
    (tmp_path / "image.png").write_bytes(png)
    for value in (
        png,
        images[1],
        torch.from_numpy(images[1]),
        Image.fromarray(images[1]),
        {"bytes": png, "path": "elsewhere.png"},
        {"bytes": None, "path": str(tmp_path / "image.png")},
    ):
        assert hash_row({"image": value, "label": 1}, ["image"], "label") == stored[1]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    decoded = datasets.Dataset.from_dict({"image": encoded, "label": [0, 1, 0, 1]}, features)
    assert hash_rows(decoded, ["image"], "label").tolist() == stored


def test_one_hash_by_hand() -> None:
    content = struct.pack("<Q", 2) + b"hi" + b"i" + struct.pack("<q", 7)
    row = {"text": "hi", "label": 7}
    assert hash_row(row, ["text"], "label") == blake(content)
    assert hash_row(row, ["text"], "label", "xxh3") == xxhash.xxh3_64_intdigest(content)  # of kdcache 0.1
    # A text, an array and no label: a mark instead of one.
    array = struct.pack("<2i", 1, -1)
    parts = [b"hi", b"\0int32(2,)", array, b"\0unlabelled"]
    content = b"".join(struct.pack("<Q", len(part)) + part for part in parts) + b"i" + bytes(8)
    assert hash_row(("hi", np.array([1, -1], np.int32))) == blake(content)


DISTINCT: list[Any] = [
    "",
    "1",
    "none",
    "int",
    "True",
    None,
    0,
    1,
    2**70,
    1.0,
    0.5,
    float("nan"),
    True,
    False,
    b"x",
    [],
    [None],
    [""],
    ["a", "b"],
    ["b", "a"],
    [["a"], "b"],
    [1],
    [1, 2],
    [1.0, 2.0],
    [2**70, 1],
    [[1, 2]],
    [1, "a"],
    {},
    {"a": 1},
    {"a": 2},
    {"b": 1},
    {"a": {"b": 1}},
    np.zeros((2, 3), np.float32),
    np.zeros((3, 2), np.float32),
    np.zeros((2, 3), np.float64),
    np.zeros((2, 3), np.int32),
    np.zeros((2, 3), np.uint8),
    np.zeros((2, 3), bool),
    np.array([1, 2], np.int32),
    torch.zeros(2, 3, dtype=torch.bfloat16),
    torch.ones(2, 3),
    Image.fromarray(PIXELS),
    Image.fromarray(PIXELS).convert("RGBA"),
    Image.fromarray(PIXELS).convert("L"),
    Image.fromarray(PIXELS).convert("CMYK"),
    Image.fromarray(PIXELS.reshape(4, 2, 3)),
]


def test_different_values_have_different_hashes() -> None:
    hashes = [hash_row({"x": value}, ["x"]) for value in DISTINCT]
    assert len(set(hashes)) == len(hashes)


def test_a_hash_tells_rows_apart_whose_columns_have_the_same_types() -> None:
    """The limit that rows.py states: a text can look like the shape of a uint8 array in another row."""
    array, text = np.frombuffer(b"(4,)", np.uint8).reshape(2, 2), "(2, 2)"
    swapped = np.frombuffer(b"abcd", np.uint8)
    assert hash_row((array, "abcd")) == hash_row((text, swapped))
    assert hash_row((array.astype(np.int16), "abcd")) != hash_row((text, swapped.astype(np.int16)))


def test_labels_and_columns_count() -> None:
    row = {"text": "a", "other": "b", "label": 1}
    hashes = [
        hash_row(row, ["text"], "label"),
        hash_row({**row, "label": 0}, ["text"], "label"),
        hash_row({**row, "label": 1.0}, ["text"], "label"),
        hash_row({**row, "label": "1"}, ["text"], "label"),
        hash_row({**row, "label": None}, ["text"], "label"),
        hash_row({**row, "label": [0, 1]}, ["text"], "label"),
        hash_row(row, ["text"]),
        hash_row(row, ["other"], "label"),
        hash_row(row, ["text", "other"], "label"),
        hash_row(row, ["other", "text"], "label"),
        hash_row(row, ["text", "label"]),
        hash_row({**row, "text": "ab", "other": ""}, ["text", "other"], "label"),
    ]
    assert len(set(hashes)) == len(hashes)


EQUAL: dict[str, list[Any]] = {
    "integers": [1, np.int64(1), np.uint8(1), torch.tensor(1), np.array(1)],
    "floats": [0.5, np.float32(0.5), torch.tensor(0.5)],
    "zeros": [0.0, -0.0],
    "zero arrays": [np.zeros(2, np.float32), -np.zeros(2, np.float32), -torch.zeros(2)],
    "token ids": [[5, 6], (5, 6), np.array([5, 6]), torch.tensor([5, 6]), np.array([5, 6], ">i8")],
    "texts": [["a", "b"], np.array(["a", "b"]), np.array(["a", "b"], object)],
    "strided": [np.arange(6).reshape(2, 3).T, np.ascontiguousarray(np.arange(6).reshape(2, 3).T)],
    "dictionaries": [{"a": 1, "b": [2.0]}, {"b": [2.0], "a": 1}, UserDict({"a": 1, "b": [2.0]})],
    "bytes": [b"RIFF", bytearray(b"RIFF"), memoryview(b"RIFF"), {"bytes": b"RIFF", "path": "a.wav"}],
    "gradients": [torch.ones(2), torch.ones(2, requires_grad=True)],
}


@pytest.mark.parametrize("values", EQUAL.values(), ids=EQUAL.keys())
def test_the_same_content_has_the_same_hash(values: list[Any]) -> None:
    assert len({hash_row({"x": value}, ["x"]) for value in values}) == 1
    assert len({hash_row({"x": "a", "y": value}, ["x"], "y") for value in values}) == 1


def test_a_palette_is_applied() -> None:
    image = Image.fromarray(PIXELS).quantize(4)
    other = image.copy()
    other.putpalette([9] * 768)
    assert hash_row([image]) != hash_row([other])
    assert hash_row([image]) == hash_row([image.convert("RGBA")])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text(), st.integers(0, 5)), min_size=1, max_size=8))
def test_every_kind_of_data_set_gives_the_same(rows: list[tuple[str, str, int]]) -> None:
    named = [dict(zip(("text", "more", "label"), row, strict=True)) for row in rows]
    expected = [hash_row(row, ["text", "more"], "label") for row in named]
    assert hash_rows(named, ["text", "more"], "label").tolist() == expected
    assert hash_rows(rows, [0, 1], 2).tolist() == expected
    whole = datasets.Dataset.from_list(named)
    assert hash_rows(whole, ["text", "more"], "label").tolist() == expected
    order = list(range(len(rows)))[::-1]
    turned = whole.select(order).with_format("numpy")
    assert hash_rows(turned, ["text", "more"], "label").tolist() == expected[::-1]


def test_a_torch_data_set_of_tuples() -> None:
    inputs, labels = torch.randn(3, 2), torch.tensor([0, 2, 1])
    hashes = hash_rows(torch.utils.data.TensorDataset(inputs, labels), [0], 1)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [
        hash_row({"x": inputs[i].numpy(), "y": int(labels[i])}, ["x"], "y") for i in range(3)
    ]


def test_row_hash_and_the_id_beside_it_are_no_content() -> None:
    row = {"b": "x", "a": "y"}
    assert hash_row(row) == hash_row({**row, "id": 5, "row_hash": 6}) == hash_row(row, ["a", "b"])
    assert hash_row(row) == hash_row({**row, "row_hash": 6})


def test_an_id_of_the_users_own_is_content() -> None:
    rows = [{"id": "doc-1", "text": "a"}, {"id": "doc-2", "text": "a"}]
    assert hash_row(rows[0]) != hash_row(rows[1])
    assert hash_row(rows[0]) == hash_row(rows[0], ["id", "text"])
    assert hash_rows(pa.Table.from_pylist(rows)).tolist() == [hash_row(row) for row in rows]
    assert hash_rows(datasets.Dataset.from_list(rows)).tolist() == [hash_row(row) for row in rows]


def test_refusals_say_where() -> None:
    with pytest.raises(CacheError, match=r"row 1: column 'x' holds builtins\.complex"):
        hash_rows([{"x": 1}, {"x": 1j}], ["x"])
    with pytest.raises(CacheError, match=r"no column 'y'; there are: 'x'"):
        hash_row({"x": 1}, ["y"])
    with pytest.raises(CacheError, match="no column 2; there are: positions 0 to 1"):
        hash_row((1, 2), [0], 2)
    with pytest.raises(CacheError, match=r"columns must be a list of names, found the text 'text'"):
        hash_row({"text": "a"}, "text")
    unordered = [{"a", "b"}, frozenset("ab"), {"a": 1}.keys(), (name for name in "ab"), map(str, "ab")]
    for columns in unordered:
        rows = [{"a": "x", "b": "y"}]
        for hashed in (lambda: hash_row(rows[0], columns), lambda: hash_rows(rows, columns, "b")):  # noqa: B023
            with pytest.raises(CacheError, match="columns must be a list or tuple of names, found builtins"):
                hashed()
        with pytest.raises(CacheError, match="columns must be a list or tuple of names"):
            hash_rows(pa.Table.from_pylist(rows), columns)
        with pytest.raises(CacheError, match="columns must be a list or tuple of names"):
            hash_batch({"a": ["x"], "b": ["y"]}, columns, None)
    with pytest.raises(CacheError, match=r"expected a row .*, found builtins\.str"):
        hash_row("text")
    with pytest.raises(CacheError, match="no column at all"):
        hash_row({"id": 1, "row_hash": 3, "label": 2}, None, "label")
    with pytest.raises(CacheError, match="column 'x' holds a damaged PNG"):
        hash_row({"x": to_png(PIXELS)[:40]})
    with pytest.raises(CacheError, match="column 'x' has no bytes, and its file cannot be read"):
        hash_row({"x": {"bytes": None, "path": "no/such/file"}})


def test_sixteen_bit_images_keep_their_values() -> None:
    buffers = []
    for value in (256, 257):
        buffer = io.BytesIO()
        Image.fromarray(np.full((2, 2), value, np.uint16)).save(buffer, format="PNG")
        buffers.append(buffer.getvalue())
    assert hash_row([buffers[0]]) != hash_row([buffers[1]])
    assert from_png(buffers[0]).max() == 256
