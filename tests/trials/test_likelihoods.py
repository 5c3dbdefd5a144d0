"""The file of a language model's likelihoods: whole and of these documents, or refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.errors import CacheError
from kdcache.logits.tokens.rows import Ragged
from kdcache.trials.likelihoods import Documents, document_difference, read_documents, write_documents

HASHES = np.array([3, 1, 2], np.uint64)
LENGTHS = np.array([2, 1, 4])


def documents(last: float = 7.0) -> Documents:
    nll = np.array([1, 2, 3, 4, 5, 6, last], np.float32)
    sure = np.linspace(0.1, 0.7, 7).astype(np.float32)
    right = np.array([True, False] * 3 + [True])
    return Documents(HASHES, *(Ragged(column, LENGTHS) for column in (nll, sure, right)))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_documents(tmp_path / "a.parquet", documents())
    found = read_documents(tmp_path / "a.parquet", HASHES)
    assert document_difference("validation", documents(), found) is None
    assert found.tokens.tolist() == [2, 1, 4]
    assert found.sums.tolist() == [3.0, 3.0, 22.0]


def test_the_same_likelihoods_are_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        write_documents(tmp_path / name, documents())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_first_difference_is_named() -> None:
    assert document_difference("test", documents(), documents(8.0)) == (
        "test, document 2, token 3: nll was 7.0, it is now 8.0"
    )


def test_other_documents_are_refused(tmp_path: Path) -> None:
    write_documents(tmp_path / "a.parquet", documents())
    with pytest.raises(CacheError, match="of other documents"):
        read_documents(tmp_path / "a.parquet", HASHES[::-1])
    with pytest.raises(CacheError, match="there are no likelihoods"):
        read_documents(tmp_path / "b.parquet")


@pytest.mark.parametrize("target", ["/dev/zero", ".", "a.parquet", "pipe"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, target: str) -> None:
    path = tmp_path / "a.parquet"
    os.mkfifo(path) if target == "pipe" else path.symlink_to(target)
    with pytest.raises(CacheError, match=r"a\.parquet: is damaged \("):
        read_documents(path)


def test_no_flipped_bit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_documents(path, documents())
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            found = read_documents(path, HASHES)
        except CacheError:
            continue
        assert document_difference("a", documents(), found) is None  # a bit that says nothing


def test_edited_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_documents(path, documents())
    table = pq.read_table(path)
    better = {**table.to_pydict(), "nll": [[0.1, 0.1], [0.1], [0.1] * 4]}
    edited = pa.table(better, schema=table.schema)  # with the footer's metadata
    pq.write_table(edited, path)
    with pytest.raises(CacheError, match="damaged"):
        read_documents(path)
