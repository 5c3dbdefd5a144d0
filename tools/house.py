"""Is the house in order? Rooms at the top of kdcache/, the longest file and class, how long functions are.

    python -m tools.house

Part of `make lint`. import-linter checks the floors beside it (pyproject.toml, docs/architecture.md).
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOMS = 20  # files and folders at the top of kdcache/
FILE_LINES = 450
CLASS_LINES = 250
LIBRARY = "kdcache"
FOLDERS = (LIBRARY, "stages", "benchmarks", "simulation", "tools")


@dataclass(frozen=True)
class Part:
    """A file, a class or a function, and how many lines it has."""

    kind: str
    name: str  # with its place: kdcache/logits/disk.py, or kdcache/logits/disk.py: Disk
    lines: int


def rooms(root: Path) -> list[str]:
    """The modules and packages at the top of the library, by name."""
    return sorted(
        path.name
        for path in (root / LIBRARY).iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))
    )


def parts(root: Path, folder: str) -> Iterator[Part]:
    """Every file of a folder, with its classes and functions."""
    for path in sorted((root / folder).rglob("*.py")):
        text, place = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
        yield Part("file", place, len(text.splitlines()))
        for node in ast.walk(ast.parse(text)):
            kind = {ast.ClassDef: "class", ast.FunctionDef: "function"}.get(type(node))
            if kind and isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                yield Part(kind, f"{place}: {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)


def faults(root: Path) -> list[str]:
    """The parts that are above a limit, a line each."""
    limits = {"file": FILE_LINES, "class": CLASS_LINES}
    lines = [
        f"{part.name} has {part.lines} lines; a {part.kind} has at most {limits[part.kind]}"
        for folder in FOLDERS
        for part in parts(root, folder)
        if part.lines > limits.get(part.kind, part.lines)
    ]
    top = rooms(root)
    if len(top) > ROOMS:
        lines.append(f"{LIBRARY}/ has {len(top)} rooms, at most {ROOMS}: {', '.join(top)}")
    return lines


def summary(root: Path) -> str:
    """The sizes of the library's parts, in one line."""
    lengths: dict[str, list[int]] = {"file": [], "class": [], "function": []}
    for part in parts(root, LIBRARY):
        lengths[part.kind].append(part.lines)
    functions = sorted(lengths["function"])
    return (
        f"{LIBRARY}: {len(rooms(root))} rooms, longest file {max(lengths['file'])} lines, "
        f"longest class {max(lengths['class'])}; of {len(functions)} functions half have at most "
        f"{statistics.median_low(functions)} lines, nine of ten at most {_tenth(functions)}"
    )


def _tenth(ascending: Sequence[int]) -> int:
    """The value that nine of ten do not exceed."""
    return ascending[-(-9 * len(ascending) // 10) - 1]


def main(root: Path = Path()) -> int:
    print(summary(root))
    lines = faults(root)
    for fault in lines:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
