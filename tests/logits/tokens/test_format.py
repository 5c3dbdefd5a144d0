"""A split as it is put together from its row groups."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.logits.tokens import RS, Full, Threshold, TokenCache, TopK
from kdcache.logits.tokens.rows import Growing, TokenRows

from .conftest import write_cache


@pytest.mark.parametrize("how", [Threshold(1 / 12, draws=2), RS(5), TopK(3), Full()], ids=str)
def test_a_split_is_its_parts_in_a_row(how: Any, tmp_path: Path) -> None:
    cache = TokenCache(write_cache(tmp_path, estimator=how))
    parts = [cache.read_group(group) for group in cache.groups("train")]
    assert len(parts) == 3
    expected, found = TokenRows.joined(parts), cache.manifest.whole(iter(parts), 25)
    np.testing.assert_array_equal(found.ids, expected.ids, strict=True)
    np.testing.assert_array_equal(found.row_hashes, expected.row_hashes, strict=True)
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name].values, column.values, strict=True)
        np.testing.assert_array_equal(found.columns[name].lengths, column.lengths, strict=True)


def test_one_part_at_a_time_is_in_memory(tmp_path: Path) -> None:
    cache = TokenCache(write_cache(tmp_path, {"train": 60}))
    given: list[weakref.ref[Any]] = []

    def parts() -> Iterator[TokenRows]:
        for group in cache.groups("train"):
            assert [one for one in given if one() is not None] == []
            part = cache.read_group(group)
            given.extend(weakref.ref(array) for array in (part.ids, part.columns["head_ids"].values))
            yield part
            del part

    assert len(cache.manifest.whole(parts(), 60)) == 60
    assert len(given) == 2 * 6


def test_an_array_that_grows() -> None:
    random, grown = np.random.default_rng(0), Growing(np.uint16)
    pieces = [random.integers(0, 9, size).astype(np.uint16) for size in (0, 3, 1, 200, 0, 5, 7000, 2, 90)]
    for piece in pieces:
        grown.add(piece)
    np.testing.assert_array_equal(grown.whole(), np.concatenate(pieces), strict=True)
    assert len(Growing(bool).whole()) == 0
