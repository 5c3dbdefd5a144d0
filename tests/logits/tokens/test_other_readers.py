"""DuckDB and Polars read a token cache as it lies on disk; docs/token-caches.md shows how, and what it shows is run."""

import re
from pathlib import Path

import numpy as np
import pytest

from kdcache.logits.tokens import TokenCache

from .conftest import write_cache

PAGE = (Path(__file__).parents[3] / "docs" / "token-caches.md").read_text(encoding="utf-8")


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """The train split as kdcache reads it; the current folder is the cache's parent, as on the page."""
    monkeypatch.chdir(tmp_path)
    return TokenCache(write_cache(tmp_path / "cache")).split("train")


def lists(rows, name: str) -> list[list]:
    return [row.tolist() for row in rows.columns[name].rows()]


def test_duckdb(rows):
    duckdb = pytest.importorskip("duckdb")
    for name in rows.columns:
        found = duckdb.sql(f"SELECT {name} FROM read_parquet('cache/train/*.parquet') ORDER BY id").fetchall()
        assert [row[0] for row in found] == lists(rows, name)
    (query,) = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)
    found = duckdb.sql(query).fetchall()
    means = [-np.mean(row) for row in lists(rows, "label_logprob")]
    np.testing.assert_allclose([row[1] for row in found], means, rtol=1e-5)


def test_polars(rows):
    polars = pytest.importorskip("polars")
    table = polars.read_parquet("cache/train/*.parquet").sort("id")
    assert table["row_hash"].to_list() == rows.row_hashes.tolist()
    for name in rows.columns:
        assert table[name].to_list() == lists(rows, name)
