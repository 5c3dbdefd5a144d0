"""The study's numbers as cells, and the JSON file that keeps them, one cell a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
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
    """The machine and versions, each table's CPU seconds and date, and the cells of all tables.

    facts: of the tables that have none of their own. made: of a table that was simulated by itself, and elsewhere.
    """

    facts: dict[str, Any]
    seconds: dict[str, float]
    dates: dict[str, str]
    cells: list[Cell]
    made: dict[str, dict[str, Any]] = field(default_factory=dict)

    def table(self, name: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.table == name]

    def facts_of(self, name: str) -> dict[str, Any]:
        """Where and with what a table was simulated."""
        return self.made.get(name, self.facts)

    def all_facts(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """The tables by their facts: (names of tables): facts; one entry if they were all made alike."""
        groups: list[tuple[dict[str, Any], list[str]]] = []
        for name in self.dates:
            facts = self.facts_of(name)
            alike = next((names for known, names in groups if known == facts), None)
            if alike is None:
                groups.append((facts, [name]))
            else:
                alike.append(name)
        return {tuple(names): facts for facts, names in groups}

    def with_table(
        self, name: str, cells: list[Cell], seconds: float, date: str, facts: dict[str, Any]
    ) -> Results:
        """These results with one table replaced, or added; the others keep their own facts."""
        others = [cell for cell in self.cells if cell.table != name]
        made = {key: value for key, value in self.made.items() if key != name}
        if facts != self.facts:
            made[name] = facts
        return replace(
            self,
            seconds=self.seconds | {name: seconds},
            dates=self.dates | {name: date},
            cells=others + cells,
            made=made,
        )


def write(path: Path, results: Results) -> None:
    made = {"made": results.made} if results.made else {}
    head = json.dumps(
        results.facts | {"cpu_seconds": results.seconds, "dates": results.dates} | made, indent=1
    ).removesuffix("\n}")
    lines = ",\n".join(json.dumps(asdict(cell)) for cell in results.cells)
    write_atomically(path, f'{head},\n "cells": [\n{lines}\n]}}\n'.encode())


def read(path: Path) -> Results:
    """Read the file; KdcacheError if it is missing or has another layout."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        cells = [Cell(**cell) for cell in facts.pop("cells")]
        seconds, dates, made = facts.pop("cpu_seconds"), facts.pop("dates"), facts.pop("made", {})
        return Results(facts, seconds, dates, cells, made)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KdcacheError(f"{path}: no results ({error}); run `python -m simulation`") from None


def made_line(results: Results, titles: Mapping[str, str]) -> str:
    """When, where and with what the tables were made: a line, or one for each group of tables; titles: by name."""
    groups = results.all_facts()
    if len(groups) == 1:
        return _line(results, *groups.popitem())
    return "\n".join(
        f"- {', '.join(titles.get(name, name) for name in names)}: {_line(results, names, facts)}"
        for names, facts in groups.items()
    )


def _line(results: Results, names: tuple[str, ...], facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    days = [results.dates[name] for name in names]
    dates = " to ".join(dict.fromkeys((min(days), max(days))))
    seconds = sum(results.seconds[name] for name in names)
    return f"{dates}: {seconds:,.0f} s of CPU on {facts['machine']}, {versions}, seed {facts['seed']}."
