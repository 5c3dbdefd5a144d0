"""Run the simulation study and write its table, its page and its figure.

python -m simulation               # some minutes on one core
python -m simulation --page-only   # the page again, from the results that are there
python -m simulation --quick       # whether it runs: prints the page, and keeps nothing
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
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

RESULTS, PAGE = Path("simulation/results/statistics.json"), Path("docs/measured/statistics-simulation.md")
QUICK = 60  # repetitions


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    names = [] if args.page_only else args.only or [table.name for table in TABLES]
    known, now = args.results or RESULTS, _facts()
    fresh = len(names) == len(TABLES)
    results = Results(now, {}, {}, []) if fresh else read(known)  # a missing file shows before the work
    for table in TABLES:
        if table.name in names:
            cells, seconds = simulate(table, QUICK if args.quick else None)
            results = results.with_table(table.name, cells, seconds, date.today().isoformat(), now)
            if args.results:
                write(args.results, results)
    if args.page:
        page.write(args.page, known.name, results)
    else:
        print(page.render(known.name, results))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. With --quick, the committed files are neither the default results nor the default page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS}, without --quick")
    parser.add_argument("--page", type=Path, help=f"default: {PAGE}, without --quick, which prints it")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} repetitions: to see that it runs")
    parser.add_argument("--only", nargs="+", choices=[table.name for table in TABLES], help="the others stay")
    parser.add_argument("--page-only", action="store_true", help="write the page from the results")
    args = parser.parse_args(arguments)
    if not args.quick:
        args.results, args.page = args.results or RESULTS, args.page or PAGE
    return args


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
