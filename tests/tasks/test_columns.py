"""Columns whatever their encoding; names and rows in messages."""

from __future__ import annotations

import pyarrow as pa
import pytest

from kdcache.tasks.columns import as_integers, listed, plain, shown, shown_all


def test_listed_cuts_long_lists() -> None:
    assert listed([1, 2], 2) == "1, 2"
    assert listed([1, 2, 3], 2) == "1, 2, ... (3 in all)"


def test_extension_types_are_read_by_their_storage() -> None:
    kind = pa.fixed_shape_tensor(pa.uint8(), [1, 2])
    storage = pa.array([[1, 2]], pa.list_(pa.uint8(), 2))
    column = pa.chunked_array([pa.ExtensionArray.from_storage(kind, storage)])
    assert plain(column).to_pylist() == [[1, 2]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("label", "label"),
        ("two words", "two words"),
        ("é", "é"),
        (" label", "' label'"),
        ("label\n", r"'label\n'"),
        ("a\u00a0b", r"'a\xa0b'"),
        ("\ufefftext", r"'\ufefftext'"),
        ("a\0", r"'a\x00'"),
        ("a, b", "'a, b'"),
        ("", "''"),
        ("x" * 61, "x" * 60 + "..."),
    ],
)
def test_a_name_shows_what_would_not_be_seen(name: str, message: str) -> None:
    assert shown(name) == message
    assert shown_all(["a", name]) == f"a, {message}"


def test_names_that_look_the_same_are_told_apart() -> None:
    composed, decomposed = "t\u00e9xt", "te\u0301xt"
    assert shown_all([composed, "label"]) == "t\u00e9xt, label"
    assert shown_all([composed, decomposed]) == r"'t\xe9xt', 'te\u0301xt'"
    assert shown_all([decomposed, "label"], beside=[composed]) == r"'te\u0301xt', label"


@pytest.mark.parametrize(
    ("texts", "integers"),
    [
        (["0", "-1", "9223372036854775807"], [0, -1, 2**63 - 1]),
        (["7", None], [7, None]),
        ([None], [None]),
        (["07"], None),
        (["-0"], None),
        (["9223372036854775808"], None),
        (["1.0"], None),
        (["1 "], None),
        ([""], None),
    ],
)
def test_texts_that_are_integers(texts: list[str | None], integers: list[int | None] | None) -> None:
    found = as_integers(pa.chunked_array([pa.array(texts, pa.string())]))
    assert (found if found is None else found.to_pylist()) == integers
