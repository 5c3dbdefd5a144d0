"""The pages as a site: built without a warning, and with all that the library offers."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import kdcache

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "site" / "reference.md"


def test_the_reference_has_every_public_name_once() -> None:
    named = re.findall(
        r"^\.\. auto\w+:: kdcache\.(\w+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(named) == sorted(kdcache.__all__)


@pytest.mark.skipif(find_spec("sphinx") is None, reason="Sphinx is not installed: `make docs` installs it")
def test_it_is_built_without_a_warning_and_reads_no_network(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "-q",
        "-b",
        "html",
        "-c",
        "docs/site",
        ".",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {
        "docs/site/index.html",
        "docs/site/reference.html",
        "docs/library.html",
        "results/README.html",
    } <= pages
    reference = (tmp_path / "site/docs/site/reference.html").read_text(encoding="utf-8")
    for name in kdcache.__all__:
        assert re.search(rf'id="kdcache(\.\w+)*\.{name}"', reference), name
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', reference)
    assert loaded == []
