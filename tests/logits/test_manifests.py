"""manifest.json is taken only as it was written: each key once, and texts of whole characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import CacheError
from kdcache.logits import Fingerprints, LogitCache

from .conftest import FINGERPRINTS, write_cache

HALF = "\ud800"


@pytest.mark.parametrize(
    ("key", "first"),
    [("label_names", '["yes", "maybe", "no"]'), ("classes", "7"), ("data", '"other"'), ("rows", "3")],
)
def test_a_key_that_is_there_twice_is_refused(cache: Path, key: str, first: str) -> None:
    """A reader that takes the first value would have other label names; the checksum covers the last."""
    file = cache / "manifest.json"
    text = file.read_text()
    assert LogitCache(cache)
    file.write_text(text.replace(f'"{key}":', f'"{key}": {first}, "{key}":', 1))
    with pytest.raises(
        CacheError, match=rf"manifest\.json: is not valid JSON .the key '{key}' is there twice"
    ):
        LogitCache(cache)


def test_half_a_character_in_a_manifest_names_the_file_and_the_key(cache: Path) -> None:
    file = cache / "manifest.json"
    file.write_text(file.read_text().replace('"maybe"', '"\\ud800"'))
    with pytest.raises(CacheError, match=r"manifest\.json: 'label_names' has half a character"):
        LogitCache(cache)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"label_names": ["no", "maybe", HALF]}, "label_names"),
        ({"fingerprints": Fingerprints(**{**dict(FINGERPRINTS), "code": HALF})}, "fingerprints"),
    ],
)
def test_half_a_character_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], key: str
) -> None:
    with pytest.raises(CacheError, match=rf"cache: '{key}' has half a character"):
        write_cache(tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()
