"""The page's JavaScript is made once for a user, and a kept file is taken only as it was written."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import vl_convert

from kdcache.report import bundle
from kdcache.report.bundle import bundled

SCRIPT = 'let é = "</script>";\r\nwindow.vegaEmbed = 1;\n'


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions of the bundles that were made, in an empty cache folder; making a real one takes seconds."""
    versions: list[str] = []

    def make(vl_version: str) -> str:
        versions.append(vl_version)
        return SCRIPT

    monkeypatch.setattr(vl_convert, "javascript_bundle", make)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return versions


def kept(folder: Path) -> Path:
    (file,) = (folder / "kdcache").iterdir()
    return file


def test_it_is_made_once(made: list[str]) -> None:
    assert [bundled("6.1") for _ in range(3)] == [SCRIPT] * 3
    assert made == ["6.1"]


def test_each_version_has_its_own(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for vega_lite in ("6.1", "5.20"):
        bundled(vega_lite)
    monkeypatch.setattr(bundle, "version", lambda name: "0.0")
    bundled("6.1")
    assert made == ["6.1", "5.20", "6.1"]


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff"], ids=["empty", "short", "no text"])
def test_a_damaged_file_is_made_again(made: list[str], tmp_path: Path, damage: bytes) -> None:
    bundled("6.1")
    whole = kept(tmp_path).read_bytes()
    for content in (damage, whole[:-1], whole + b" ", whole.replace(b"window", b"Window")):
        kept(tmp_path).write_bytes(content)
        assert bundled("6.1") == SCRIPT
        assert kept(tmp_path).read_bytes() == whole
    assert len(made) == 5


def test_where_nothing_can_be_kept_it_is_made_each_time(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kdcache").write_text("a file, where the folder would be")
    assert [bundled("6.1"), bundled("6.1")] == [SCRIPT] * 2
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/cache")
    assert bundled("6.1") == SCRIPT
    assert len(made) == 3


def test_by_default_it_is_in_the_home_folder(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    bundled("6.1")
    assert kept(tmp_path / "home" / ".cache").name == f"vega-embed-{version('vl-convert-python')}-6.1.js"
