"""Run the simulation study and write its table, its page and its figure.

python -m simulation               # some minutes on one core
python -m simulation --page-only   # the page again, from the results that are there
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from tqdm import tqdm

from kdcache.system.devices import machine
from simulation import page
from simulation.montecarlo import SEED, rates
from simulation.questions import Table
from simulation.results import Cell, Results, read, write
from simulation.tables import TABLES
from stages import stage_errors

QUICK = 60  # repetitions


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    names = [] if args.page_only else args.only or [table.name for table in TABLES]
    fresh = len(names) == len(TABLES)
    results = Results({}, {}, {}, []) if fresh else read(args.results)  # a missing file shows before the work
    for table in TABLES:
        if table.name in names:
            cells, seconds = simulate(table, QUICK if args.quick else None)
            results = results.with_table(table.name, cells, seconds, date.today().isoformat())
            write(args.results, replace(results, facts=_facts()))
    page.write(args.page, args.results.name, read(args.results))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("simulation/results/statistics.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/measured/statistics-simulation.md"))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} repetitions: to see that it runs")
    parser.add_argument("--only", nargs="+", choices=[table.name for table in TABLES], help="the others stay")
    parser.add_argument("--page-only", action="store_true", help="write the page from the results")
    return parser.parse_args(arguments)


def simulate(table: Table, repetitions: int | None = None) -> tuple[list[Cell], float]:
    """The table's cells, and the CPU seconds that they took; `repetitions` overrides the table's own number."""
    started, cells = time.process_time(), []
    for row in tqdm(table.rows, desc=table.name, unit="row", disable=None):
        rate_of = rates(table.ask(row), repetitions or table.repetitions, f"{table.name}/{row}")
        cells += [Cell.of(table, row, column, rate) for column, rate in rate_of.items()]
    return cells, round(time.process_time() - started, 1)


def _facts() -> dict[str, Any]:
    return {
        "made_by": "python -m simulation",
        "machine": machine(1),
        "seed": SEED,
        "versions": {"numpy": np.__version__, "scipy": scipy.__version__},
    }


if __name__ == "__main__":
    main()
