"""The study's numbers as cells, and the JSON file that keeps them, one cell a line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import KdcacheError
from kdcache.system.files import write_atomically
from simulation.montecarlo import Rate
from simulation.questions import Table

DIGITS = 5


@dataclass(frozen=True)
class Cell:
    """One rate: its place, its Monte-Carlo standard error, and whether it met its goal (None: has none)."""

    table: str
    row: str
    column: str
    rate: float
    error: float
    repetitions: int
    met: bool | None

    @classmethod
    def of(cls, table: Table, row: str, column: str, rate: Rate) -> Cell:
        goal = table.goal(column)
        met = None if goal is None else goal.met(rate)
        value, error = round(rate.value, DIGITS), round(rate.error, DIGITS)
        return cls(table.name, row, column, value, error, rate.repetitions, met)


@dataclass(frozen=True)
class Results:
    """The machine, each table's CPU seconds and date, and the cells of all tables."""

    facts: dict[str, Any]
    seconds: dict[str, float]
    dates: dict[str, str]
    cells: list[Cell]

    def table(self, name: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.table == name]

    def with_table(self, name: str, cells: list[Cell], seconds: float, date: str) -> Results:
        """These results with one table replaced, or added."""
        others = [cell for cell in self.cells if cell.table != name]
        return Results(self.facts, self.seconds | {name: seconds}, self.dates | {name: date}, others + cells)


def write(path: Path, results: Results) -> None:
    head = json.dumps(
        results.facts | {"cpu_seconds": results.seconds, "dates": results.dates}, indent=1
    ).removesuffix("\n}")
    lines = ",\n".join(json.dumps(asdict(cell)) for cell in results.cells)
    write_atomically(path, f'{head},\n "cells": [\n{lines}\n]}}\n'.encode())


def read(path: Path) -> Results:
    """Read the file; KdcacheError if it is missing or has another layout."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        cells = [Cell(**cell) for cell in facts.pop("cells")]
        return Results(seconds=facts.pop("cpu_seconds"), dates=facts.pop("dates"), cells=cells, facts=facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KdcacheError(f"{path}: no results ({error}); run `python -m simulation`") from None
