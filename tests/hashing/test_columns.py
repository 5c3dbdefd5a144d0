"""Rows hashed column by column have the hashes of rows hashed value by value; and nothing is lost on the way."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdcache.errors import CacheError
from kdcache.hashing import columns as hashing_columns
from kdcache.hashing.content import value_parts
from kdcache.hashing.rows import hash_row, hash_rows

TEXTS = st.text(max_size=6)
FLAT: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "string": (pa.string(), TEXTS),
    "large_string": (pa.large_string(), TEXTS),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), TEXTS),
    "binary": (pa.binary(), st.binary(max_size=6)),
    "fixed_binary": (pa.binary(3), st.binary(min_size=3, max_size=3)),
    "int8": (pa.int8(), st.integers(-128, 127)),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "float16": (pa.float16(), st.floats(width=16)),
    "float32": (pa.float32(), st.floats(width=32)),
    "float64": (pa.float64(), st.floats()),
    "bool": (pa.bool_(), st.booleans()),
    "null": (pa.null(), st.none()),
}
LISTS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "tokens": (pa.list_(pa.int32()), st.lists(st.one_of(st.integers(-9, 9), st.none()), max_size=4)),
    "large_ids": (pa.large_list(pa.uint64()), st.lists(st.integers(0, 2**64 - 1), max_size=3)),
    "vector": (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32), min_size=2, max_size=2)),
    "texts": (pa.list_(pa.string()), st.lists(TEXTS, max_size=2)),
    "flags": (pa.list_(pa.bool_()), st.lists(st.booleans(), max_size=2)),
    "nested": (
        pa.list_(pa.list_(pa.int64())),
        st.lists(st.lists(st.integers(0, 3), max_size=2), max_size=2),
    ),
    "struct": (pa.struct([("a", pa.int64())]), st.fixed_dictionaries({"a": st.integers(0, 3)})),
}
COLUMNS = FLAT | LISTS
LABELS = ["int8", "int64", "float16", "float64", "bool", "string", "null", "tokens"]


def obvious(row: dict[str, Any], columns: list[str], label: str | None) -> int:
    """The hash of a row, value by value, by the words of docs/cache-format.md."""
    parts = [part for name in columns for part in value_parts(row[name], name)]
    target = None if label is None else row[label]
    if label is None:
        parts, target = [*parts, b"\0unlabelled"], 0
    elif not isinstance(target, int | float):
        parts, target = [*parts, b"\0label", *value_parts(target, label)], 0
    content = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    whole = isinstance(target, int)
    content += struct.pack("<cq", b"i", target) if whole else struct.pack("<cd", b"f", target + 0.0)
    return int(struct.unpack("<Q", hashlib.blake2b(content, digest_size=16).digest()[:8])[0])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whole_columns_give_the_hashes_of_the_obvious_version(data: st.DataObject) -> None:
    columns = data.draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=3, unique=True))
    label = data.draw(st.sampled_from([None, *LABELS]))
    kinds = dict(zip(columns, columns, strict=True)) | ({} if label is None else {"label": label})
    named = None if label is None else "label"
    schema = pa.schema([(name, COLUMNS[kind][0]) for name, kind in kinds.items()])
    row = st.fixed_dictionaries(
        {name: st.one_of(st.none(), COLUMNS[kind][1]) for name, kind in kinds.items()}
    )
    table = pa.Table.from_pylist(data.draw(st.lists(row, max_size=5)), schema)
    expected = [obvious(row, columns, named) for row in table.to_pylist()]
    assert hash_rows(table, columns, named).tolist() == expected
    assert hash_rows(table.slice(1), columns, named).tolist() == expected[1:]  # buffers with an offset
    assert hash_rows(table.to_pylist(), columns, named).tolist() == expected
    if not {"dictionary", "null", "fixed_binary"} & set(kinds.values()):  # datasets has no such types
        assert hash_rows(datasets.Dataset(table), columns, named).tolist() == expected


def test_arrays_and_tensors_of_one_shape_are_hashed_together_as_alone() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 9, (300, 4), dtype=np.uint8)
    for made in (rng.normal(size=(300, 2, 3)), small, rng.random((300, 2)) < 0.5, -np.zeros((3, 2))):
        for values in (list(made), [torch.from_numpy(value.copy()) for value in made]):
            hashes = hash_rows([{"x": value} for value in values], ["x"])
            assert hashes.tolist() == [obvious({"x": value}, ["x"], None) for value in made]
    ragged = [torch.zeros(k % 3 + 1) for k in range(200)]
    hashes = hash_rows([(value, 1) for value in ragged], [0], 1)
    assert hashes.tolist() == [hash_row((value, 1), [0], 1) for value in ragged]


def test_more_rows_than_are_looked_at_at_once() -> None:
    rows = [{"text": f"row {k}", "label": k % 3} for k in range(10_000)]
    expected = [obvious(row, ["text"], "label") for row in rows]
    whole = datasets.Dataset.from_list(rows)
    assert hash_rows(rows, ["text"], "label").tolist() == expected
    assert hash_rows(pa.Table.from_pylist(rows), ["text"], "label").tolist() == expected
    order = np.random.default_rng(0).permutation(len(rows))
    assert hash_rows(whole.select(order), ["text"], "label").tolist() == [expected[k] for k in order]


def test_labels_beyond_64_bits_are_refused_with_their_row() -> None:
    for label in (2**63, 2**70, -(2**63) - 1, np.uint64(2**64 - 1)):
        rows = [{"text": "a", "label": 1}, {"text": "b", "label": label}]
        with pytest.raises(CacheError, match=r"row 1: the label -?[0-9]+ does not fit 64 bits"):
            hash_rows(rows, ["text"], "label")
    table = pa.table({"text": ["a", "b"], "label": pa.array([1, 2**63], pa.uint64())})
    with pytest.raises(CacheError, match="row 1: the label 9223372036854775808 does not fit"):
        hash_rows(table, ["text"], "label")


def test_two_rows_with_one_hash_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": text} for text in ("a", "b", "c", "a")]
    assert len(set(hash_rows(rows).tolist())) == 3  # the same row twice is no collision
    real = hashing_columns.digests_of

    def colliding(*given: Any) -> Any:
        made = real(*given).copy()
        if len(made) == 3:  # the second to the fourth row: the first one goes before, alone
            made[1, 0] = made[0, 0]
        return made

    monkeypatch.setattr(hashing_columns, "digests_of", colliding)
    with pytest.raises(CacheError, match=r"rows 1 and 2 are different but have the same hash [0-9a-f]{16}"):
        hash_rows(rows)


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    body = b""
    for kind, data in (*chunks, (b"IEND", b"")):
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + body


def deep_pixel(low: int, colour: int, channels: int) -> bytes:
    """One pixel of 16 bits a channel, in a PNG."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, colour, 0, 0, 0)
    return png_of((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + bytes([7, low] * channels))))


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_all_16_bits_of_a_png_count(colour: int, channels: int) -> None:
    hashes = {hash_row([deep_pixel(low, colour, channels)]) for low in (1, 2)}
    assert len(hashes) == 2


def test_transparency_and_colour_profile_of_a_png_count() -> None:
    header = (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixel = (b"IDAT", zlib.compress(b"\0" + bytes([1, 2, 3])))
    plain = hash_row([png_of(header, pixel)])
    assert plain == hash_row([np.array([[[1, 2, 3]]], np.uint8)])
    assert plain == hash_row([png_of(header, (b"tEXt", b"Title\0x"), pixel)])  # not of the picture
    chunks = [
        (b"tRNS", bytes(6)),
        (b"tRNS", bytes([0, 1, 0, 2, 0, 3])),
        (b"gAMA", bytes([0, 0, 1, 0])),
        (b"gAMA", bytes([0, 0, 2, 0])),
    ]
    assert len({plain, *(hash_row([png_of(header, chunk, pixel)]) for chunk in chunks)}) == 5


def test_a_rotation_counts() -> None:
    """An opened image is what it shows, as its PNG's bytes are, and as a prepared task has it."""
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # the top is on the right
    Image.fromarray(pixels).save(buffer, format="PNG", exif=exif)
    turned = hash_row([np.rot90(pixels, -1)])
    assert hash_row([buffer.getvalue()]) == turned
    assert hash_row([Image.open(buffer)]) == turned
    assert hash_row([Image.fromarray(pixels)]) == hash_row([pixels])


def test_every_frame_counts() -> None:
    def animated(last: int) -> bytes:
        buffer = io.BytesIO()
        frames = [Image.fromarray(np.full((2, 2), value, np.uint8)) for value in (1, 2, last)]
        frames[0].save(buffer, format="PNG", save_all=True, append_images=frames[1:])
        return buffer.getvalue()

    assert hash_row([animated(3)]) != hash_row([animated(4)])
    opened = [Image.open(io.BytesIO(animated(last))) for last in (3, 4)]
    assert hash_row([opened[0]]) != hash_row([opened[1]])
    assert [image.tell() for image in opened] == [0, 0]


def test_values_without_a_content_are_refused_in_words() -> None:
    nest: list[Any] = []
    for _ in range(100_000):
        nest = [nest]
    for value, message in (
        ({1: "a", "b": 2}, "must be texts"),
        (nest, "cannot be hashed"),
        (10**5000, "an integer of 16610 bits"),
        (torch.empty(2, device="meta"), "cannot take"),
        (torch.empty((), device="meta"), "cannot be hashed"),
        (torch.eye(2).to_sparse(), "cannot take"),
    ):
        with pytest.raises(CacheError, match=message):
            hash_row({"x": value})
    assert hash_row({"x": "\ud83d"}) != hash_row({"x": "\ude00"})  # halves of an emoji


def test_rows_with_other_columns_each() -> None:
    rows = [{"a": "x"}, {"a": "x", "b": "y"}, {"b": "y", "a": "x"}, {"b": "y"}]
    assert hash_rows(rows).tolist() == [hash_row(row) for row in rows]
    with pytest.raises(CacheError, match="row 3: no column 'a'; there are: 'b'"):
        hash_rows(rows, ["a"])
    with pytest.raises(CacheError, match=r"row 4: expected a row .*, found builtins\.str"):
        hash_rows([*rows, "b"])
    shuffled = datasets.Dataset.from_list([{"label": 2.0**k} for k in range(4)]).select([3, 1])
    assert hash_rows(shuffled).tolist() == [hash_row({"label": 8.0}), hash_row({"label": 2.0})]


def test_a_table_without_the_column_says_which_there_are() -> None:
    rows = {"headline": ["a"], "topic": [0]}
    for table in (pa.table(rows), pd.DataFrame(rows), datasets.Dataset.from_dict(rows)):
        for columns, label in ((["text"], "topic"), (["headline"], "text")):
            with pytest.raises(CacheError, match=r"^no column 'text'; there are: 'headline', 'topic'$"):
                hash_rows(table, columns, label)
