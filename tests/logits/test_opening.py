"""A cache of either kind is opened as what it is."""

from pathlib import Path

import pytest

from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.logits.opening import open_cache, read_manifest
from kdcache.logits.tokens import TokenCache

from . import conftest as logits
from .tokens import conftest as tokens


@pytest.mark.parametrize(("kind", "opened"), [(logits, LogitCache), (tokens, TokenCache)])
def test_a_cache_is_opened_as_what_it_is(tmp_path: Path, kind, opened) -> None:
    path = kind.write_cache(tmp_path / "cache")
    cache = open_cache(path)
    assert type(cache) is opened
    assert read_manifest(path) == cache.manifest
    for shard in path.rglob("*.parquet"):
        shard.unlink()
    assert read_manifest(path).identity == cache.identity
    with pytest.raises(CacheError, match="the shard is missing"):
        open_cache(path)


def test_what_is_no_cache(tmp_path: Path) -> None:
    for read in (open_cache, read_manifest):
        with pytest.raises(CacheError, match=r"there is no manifest\.json"):
            read(tmp_path)
