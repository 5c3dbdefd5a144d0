"""docs/cache-format.md shows how other tools read a cache; what it shows is run here, as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from kdcache.logits import Augmentation, LogitCache, LogitWriter

from .conftest import FINGERPRINTS

PAGE = (Path(__file__).parents[2] / "docs" / "cache-format.md").read_text()


def shown(language: str, word: str) -> str:
    """The one code block of that language with that word in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return found


@pytest.fixture
def split(cache, monkeypatch):
    """The train split as kdcache reads it; the current folder is the cache's parent, as on the page."""
    monkeypatch.chdir(cache.parent)
    return LogitCache(cache).split("train")


def test_duckdb(split):
    duckdb = pytest.importorskip("duckdb")
    query = shown("sql", "read_parquet")
    classes = split.logits.argmax(axis=1).tolist()
    assert duckdb.sql(query).fetchall() == list(zip(split.ids.tolist(), classes, strict=True))
    values = duckdb.sql(
        "SELECT row_hash, logits FROM read_parquet('cache/train/*.parquet') ORDER BY id"
    ).fetchall()
    assert [row[0] for row in values] == split.row_hashes.tolist()
    assert np.array_equal(np.array([row[1] for row in values], np.float32), split.logits)


def test_polars(split):
    polars = pytest.importorskip("polars")
    expression = shown("python", "polars").replace("import polars", "").strip()
    found = eval(expression, {"polars": polars})
    assert found["id"].to_list() == split.ids.tolist()
    assert found["logits"].to_list() == split.logits.argmax(axis=1).tolist()
    table = polars.read_parquet("cache/train/*.parquet").sort("id")
    assert table["row_hash"].to_list() == split.row_hashes.tolist()
    assert np.array_equal(table["logits"].to_numpy(), split.logits)


def test_views_in_other_tools(tmp_path):
    """The page's asides on views: which of the V K elements are a view's."""
    views, classes = 2, 3
    logits = np.arange(24, dtype=np.float32).reshape(4, views, classes)
    augmentation = Augmentation(views=views, seed=0, description="none")
    options = {"classes": classes, "label_names": [], "fingerprints": FINGERPRINTS}
    with LogitWriter(tmp_path / "cache", **options, augmentation=augmentation) as writer:
        writer.write("train", np.arange(4), np.arange(4, dtype=np.uint64), logits)
        writer.finish()
    file = str(tmp_path / "cache" / "train" / "*.parquet")
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    part = re.search(r"`(\(logits.*?\])`", PAGE)[1].replace("v", "1").replace("K", str(classes))
    found = duckdb.sql(f"SELECT {part} FROM read_parquet('{file}') ORDER BY id")
    assert [row[0] for row in found.fetchall()] == logits[:, 1].tolist()
    expression = re.search(r"With V views: `(.*?)`", PAGE)[1]
    reshaped = eval(expression, {"polars": polars, "V": views, "K": classes})
    table = polars.read_parquet(file).sort("id").select(reshaped)
    assert np.array_equal(table["logits"].to_numpy(), logits)


def test_pyarrow(split):
    import pyarrow.parquet

    expression = shown("python", "pyarrow").replace("import pyarrow.parquet", "").strip()
    found = eval(expression, {"pyarrow": pyarrow})
    assert found["id"].to_pylist() == split.ids.tolist()
    assert found["logits"].to_pylist() == split.logits.tolist()
