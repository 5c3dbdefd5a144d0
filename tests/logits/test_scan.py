"""Splits by rising id, in pieces: the rows of the whole split, however they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import CacheError
from kdcache.logits import CachedSplit, LogitCache, LogitWriter, scan
from kdcache.logits.ensemble import ensemble
from tests.logits.conftest import FINGERPRINTS


def write(path: Path, ids: list[int], rows_per_shard: int) -> LogitCache:
    values = np.asarray(ids, np.int64)
    logits = np.stack([values, -values], axis=1).astype(np.float32)
    with LogitWriter(
        path, classes=2, label_names=[], fingerprints=FINGERPRINTS, rows_per_shard=rows_per_shard
    ) as writer:
        writer.write("train", values, values.astype(np.uint64) + 7, logits)
        writer.finish()
    return LogitCache(path)


def assert_rows(part: CachedSplit, ids: list[int]) -> None:
    assert part.ids.tolist() == ids
    assert part.row_hashes.tolist() == [k + 7 for k in ids]
    assert part.logits.tolist() == [[k, -k] for k in ids]


IDS = st.lists(st.integers(0, 30), unique=True, max_size=20)


@settings(max_examples=60, deadline=None)
@given(IDS, IDS, st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(1, 5))
def test_pieces_are_the_split(tmp_path_factory, one, other, rows_a, rows_b, rising, count) -> None:
    folder = tmp_path_factory.mktemp("scan")
    one, other = (sorted(one), sorted(other)) if rising else (one, other)
    a, b = write(folder / "a", one, rows_a), write(folder / "b", other, rows_b)
    pieces = list(scan.by_id(a, "train"))
    assert all(len(piece.ids) for piece in pieces)
    assert [row for piece in pieces for row in piece.ids.tolist()] == sorted(one)
    for piece in pieces:
        assert_rows(piece, piece.ids.tolist())
    pairs = list(scan.in_both(scan.by_id(a, "train"), scan.by_id(b, "train")))
    for left, right in pairs:
        assert_rows(left, right.ids.tolist())
        assert_rows(right, left.ids.tolist())
    assert [row for left, _ in pairs for row in left.ids.tolist()] == sorted(set(one) & set(other))
    if one:
        reader, taken = scan.Reader(scan.by_id(a, "train")), []
        while len(taken) < len(one):
            part = reader.take(count)
            assert len(part.ids) == min(count, len(one) - len(taken))
            taken += part.ids.tolist()
        assert taken == sorted(one)


def test_rising_ids_are_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [write(tmp_path / name, list(range(20)), size) for name, size in (("a", 3), ("b", 7))]
    monkeypatch.setattr(LogitCache, "split", None)
    mean = ensemble(members, tmp_path / "mean")
    monkeypatch.undo()
    assert_rows(mean.split("train"), list(range(20)))


def test_an_ensemble_of_old_hashes_says_that_they_are(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        with LogitWriter(
            tmp_path / name, classes=2, label_names=[], fingerprints=FINGERPRINTS, row_hash="xxh3"
        ) as writer:
            writer.write("train", [0], [5], np.zeros((1, 2), np.float32))
            writer.finish()
        paths.append(tmp_path / name)
    assert ensemble(paths, tmp_path / "mean").row_hash == "xxh3"
    write(tmp_path / "c", [0], 3)
    with pytest.raises(CacheError, match="other hash of the rows: expected xxh3, found blake2b"):
        ensemble([paths[0], tmp_path / "c"], tmp_path / "mean")
