"""What goes into the wheel: the library with everything that it needs, and nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_the_wheel_has_kdcache_alone_and_all_of_it() -> None:
    packages = set(find_packages(str(ROOT), include=SETTINGS["packages"]["find"]["include"]))
    assert {name.split(".")[0] for name in packages} == {"kdcache"}
    modules = {path.parent for path in (ROOT / "kdcache").rglob("*.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in modules} == packages


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
