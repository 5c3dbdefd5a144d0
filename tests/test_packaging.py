"""What goes into the wheel: the library with everything that it needs, and nothing else."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def dotted(folder: Path) -> str:
    return ".".join(folder.relative_to(ROOT).parts)


def test_the_wheel_has_kdcache_alone_and_all_of_it() -> None:
    """As setuptools finds packages: folders with __init__.py, in packages, whose dotted name is included."""
    patterns = SETTINGS["packages"]["find"]["include"]
    folders = [path.parent for path in ROOT.glob("[!.]*/**/__init__.py")]
    packages = {dotted(folder) for folder in folders if any(fnmatch(dotted(folder), one) for one in patterns)}
    assert {name.split(".")[0] for name in packages} == {"kdcache"}
    assert {dotted(path.parent) for path in (ROOT / "kdcache").rglob("*.py")} == packages


def test_the_wheel_has_every_file_that_is_no_module() -> None:
    data = {
        file
        for package, patterns in SETTINGS["package-data"].items()
        for pattern in patterns
        for file in (ROOT / Path(*package.split("."))).glob(pattern)
        if file.is_file()
    }
    others = {
        path
        for path in (ROOT / "kdcache").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert others == data
    assert ROOT / "kdcache" / "py.typed" in data
