"""The tree of the house, from the first line of every module's docstring, on two pages.

    python -m tools.tree

Writes docs/architecture.md (every file of kdcache/) and CONTRIBUTING.md (its folders), each between
`<!-- tree:begin -->` and `<!-- tree:end -->`. Rooms stand in the order of their floors, the lowest first, as the
import contract in pyproject.toml has them.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from kdcache.errors import KdcacheError
from kdcache.system.files import write_atomically
from tools.readme_results import replace_results

WIDTH = 28  # of the column of names
BESIDE = {  # what else is at the top of the project
    "stages/": "the thin DVC modules: each reads params.yaml, calls kdcache and writes its outputs",
    "studies/": "other studies, each a file to copy to params.yaml",
    "data/models/": "the small embedded checkpoints; everything else in data/ is made by stages",
    "metrics/": "what the study in params.yaml gave",
    "results/": "every committed study, and what it found",
    "benchmarks/": "what measures speed",
    "simulation/": "how often the statistics are wrong, on made-up studies",
    "tools/": "chores of this repository",
    "examples/": "whole training loops that use the cache",
    "docs/": "the pages; docs/README.md lists them",
    "tests/": "mirrors kdcache/; tests/pipeline/ drives real DVC",
}


def pages(root: Path) -> dict[Path, str]:
    """The pages as they should be, by their paths."""
    trees = {root / "docs" / "architecture.md": whole_tree(root), root / "CONTRIBUTING.md": short_tree(root)}
    return {
        path: replace_results(path.read_text(encoding="utf-8"), f"```\n{tree}\n```", path, "tree")
        for path, tree in trees.items()
    }


def whole_tree(root: Path) -> str:
    """Every folder and file of the library, a line each."""
    return "\n".join(["kdcache/", *_files(root), "", *_top_folders()])


def short_tree(root: Path) -> str:
    """The library's rooms and the folders beside it, a line each."""
    lines = [_line(1, *_room(root / "kdcache" / name)) for name in floors(root)]
    return "\n".join(["kdcache/", *lines, "", *_top_folders()])


def floors(root: Path) -> list[str]:
    """The library's rooms, the lowest first."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    layers: list[str] = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [room.strip() for layer in reversed(layers) for room in layer.split("|") if "__" not in room]


def _files(root: Path) -> Iterator[str]:
    yield _line(1, "__init__.py", said_by(root / "kdcache" / "__init__.py"))
    for name in floors(root):
        room = root / "kdcache" / name
        yield _line(1, *_room(room))
        yield from _inside(room, 2)


def _room(path: Path) -> tuple[str, str]:
    if path.is_dir():
        return f"{path.name}/", said_by(path / "__init__.py")
    return f"{path.name}.py", said_by(path.with_suffix(".py"))


def _inside(folder: Path, depth: int) -> Iterator[str]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.suffix == ".py" and path.name != "__init__.py":
            yield _line(depth, path.name, said_by(path))
        elif (path / "__init__.py").is_file():
            yield _line(depth, *_room(path))
            yield from _inside(path, depth + 1)


def said_by(module: Path) -> str:
    """The first line of the module's docstring.

    Raises:
        KdcacheError: the module has none.
    """
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    if not text:
        raise KdcacheError(f"{module}: expected a docstring that says what the module is for")
    return text.splitlines()[0]


def _top_folders() -> list[str]:
    return [_line(0, name, text) for name, text in BESIDE.items()]


def _line(depth: int, name: str, text: str) -> str:
    return f"{'  ' * depth + name:<{WIDTH}} {text}"


def main(root: Path = Path()) -> int:
    """Write both pages; returns 1, with one clear message, if that cannot be done."""
    try:
        for path, text in pages(root).items():
            write_atomically(path, text.encode("utf-8"))
            print(f"Updated {path}")
    except (KdcacheError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
