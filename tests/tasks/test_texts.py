"""Texts: what is accepted, what their hashes cover, and what each refusal says."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from kdcache.errors import TaskError
from kdcache.hashing.digests import digest
from kdcache.tasks.texts import TextReader


def test_texts_and_their_hashes() -> None:
    reader = TextReader("train", ["a", "b"])
    arrays, digests = reader.read(pa.table({"a": ["x ", "é"], "b": ["1", "2"]}), 0, np.array([0, 1]))
    reader.finish()
    assert arrays["text"].to_pylist() == ["x ", "é"]
    assert arrays["text_pair"].to_pylist() == ["1", "2"]
    assert digests.tobytes() == digest([b"x ", b"1"], 0) + digest(["é".encode(), b"2"], 1)


def test_texts_without_labels() -> None:
    _, digests = TextReader("unlabelled", ["a"]).read(pa.table({"a": ["x"]}), 0, None)
    assert digests.tobytes() == digest([b"x"], None)


def test_empty_texts_are_refused_together() -> None:
    reader = TextReader("validation", ["a"])
    reader.read(pa.table({"a": ["ok", "", " \n\t"]}), 0, None)
    reader.read(pa.table({"a": [None, "ok"]}), 3, None)
    with pytest.raises(TaskError, match=r"validation: text column 'a' is empty in 3 rows \(row 1, 2, 3\)"):
        reader.finish()


def test_a_text_column_of_numbers_or_only_nulls() -> None:
    with pytest.raises(TaskError, match="train: text column 'a' holds int64, expected strings"):
        TextReader("train", ["a"]).read(pa.table({"a": [1]}), 0, None)
    reader = TextReader("train", ["a"])
    reader.read(pa.table({"a": pa.nulls(2)}), 0, None)
    with pytest.raises(TaskError, match="empty in 2 rows"):
        reader.finish()


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_all_kinds_of_text_columns(kind: pa.DataType) -> None:
    column = pa.chunked_array(
        [pa.array(["a", "é"]).cast(kind) if pa.types.is_dictionary(kind) else pa.array(["a", "é"], kind)]
    )
    arrays, _ = TextReader("train", ["a"]).read(pa.table({"a": column}), 0, None)
    assert arrays["text"].to_pylist() == ["a", "é"]


def test_bytes_are_no_texts() -> None:
    with pytest.raises(
        TaskError, match=r"'a' holds binary, expected strings in UTF-8 \(these are bytes that are not"
    ):
        TextReader("train", ["a"]).read(pa.table({"a": [b"a"]}), 0, None)
