"""Measure, print and keep the results; the package's docstring says what and how."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import keeping
from benchmarks.training.comparing import goals, kd_cost, page, summary, trials_per_hour
from benchmarks.training.options import parse
from benchmarks.training.rounds import measure
from benchmarks.training.runs import VARIANTS
from benchmarks.training.work import described, prepare
from stages import stage_errors

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "numpy")


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    logging.getLogger("datasets").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(args, Path(folder))
        result = {**keeping.facts(LIBRARIES), **described(work)}
        runs = measure(work, [VARIANTS[name] for name in args.variants], args.rounds)
        result |= summary(runs, goals(runs))
        keep(args, result)
        if args.hourly_rounds:
            result["ratios"].append(trials_per_hour(work, runs, args.hourly_rounds))
            keep(args, result)
        if args.kd_rounds:
            result["ratios"].append(kd_cost(work, args.kd_rounds))
            keep(args, result)
    print(page(result))


def keep(args: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Write the results so far, after each part, so that an interrupted run keeps them."""
    if args.json:
        keeping.write(args.json, args.name, result)


if __name__ == "__main__":
    main()
