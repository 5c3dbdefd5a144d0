"""Simulate designs with looks and write their page. An interrupted run continues where it stopped.

python -m simulation.settle               # some minutes on one core
python -m simulation.settle --page-only   # the page again, from the results that are there
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from tqdm import tqdm

from kdcache.system.devices import machine
from kdcache.system.files import write_atomically
from simulation import settle_page
from simulation.montecarlo import SEED, Rate, rates
from simulation.results import Cell, Results, read, write
from simulation.settle_questions import questions
from stages import stage_errors

REPETITIONS = 10_000


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    results = read(args.results) if args.page_only or args.results.exists() else Results(_facts(), {}, {}, [])
    done = {(cell.table, cell.row) for cell in results.cells if cell.repetitions >= args.repetitions}
    asked = [] if args.page_only else [cell for cell in questions() if cell[:2] not in done]
    for table, row, question in tqdm(asked, desc="simulated", unit="row", disable=None):
        started = time.process_time()
        answers = rates(question, args.repetitions, f"settle/{table}/{row}")
        results = _with_row(results, table, row, answers, time.process_time() - started)
        write(args.results, results)
    write_atomically(args.page, settle_page.render(args.results.name, results).encode())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/settle.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/measured/settle-simulation.md"))
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="of each row")
    parser.add_argument("--page-only", action="store_true", help="write the page from the results")
    return parser.parse_args(arguments)


def _facts() -> dict[str, Any]:
    return {
        "made_by": "python -m simulation.settle",
        "machine": f"{os.cpu_count()} cores, {machine(1)}",
        "seed": SEED,
        "versions": {"numpy": np.__version__, "scipy": scipy.__version__},
    }


def _with_row(results: Results, table: str, row: str, answers: dict[str, Rate], seconds: float) -> Results:
    others = [cell for cell in results.cells if (cell.table, cell.row) != (table, row)]
    cells = [
        Cell(table, row, column, round(rate.value, 5), round(rate.error, 5), rate.repetitions, None)
        for column, rate in answers.items()
    ]
    spent = round(results.seconds.get(table, 0.0) + seconds, 3)
    # A table whose rows were simulated in several runs has the date, and the facts, of the last one.
    of_table = [cell for cell in [*others, *cells] if cell.table == table]
    return results.with_table(table, of_table, spent, date.today().isoformat(), _facts())


if __name__ == "__main__":
    main()
