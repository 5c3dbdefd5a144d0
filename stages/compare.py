"""Compare every configuration with its baseline: `python -m stages.compare` writes metrics/."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kdcache.results.checking import check_results
from kdcache.results.gather import Scores, cost_table, curves_table, read_trials, trials_table
from kdcache.results.provenance import provenance
from kdcache.results.validation import Validation
from kdcache.results.writing import write_summary, write_table
from kdcache.statistics import (
    across,
    calibration_comparisons,
    compare,
    compare_examples,
    headline,
    reliability_table,
    summary,
)
from kdcache.study import Study, load_study
from kdcache.trials.layout import Layout
from stages import stage_errors

log = logging.getLogger(__name__)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    parser.add_argument(
        "--data", type=Path, default=Layout().data, help="the other stages' results (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Layout().metrics, help="default: %(default)s")
    return parser.parse_args(arguments)


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    write_metrics(load_study(options.params), options.data, options.out)


def write_metrics(study: Study, data: Path, out: Path) -> None:
    """Everything is computed before anything is written; each file is whole or absent."""
    trials, costs, curves, made = gather(study, data)
    warn_of_mixture(made["devices"])
    comparisons = compare(trials, study)
    calibration = calibration_comparisons(trials, study)
    claims = summary(trials, study, comparisons)
    over_tasks = across(trials, study)
    validation = Validation(study, data)
    examples = compare_examples(study, validation.outputs)
    reliability = reliability_table(study, validation.logits)
    write_table(trials, out / "trials.csv")
    write_table(comparisons, out / "comparisons.csv")
    write_table(examples, out / "examples.csv")
    write_table(calibration, out / "calibration.csv")
    write_table(reliability, out / "reliability.csv")
    write_table(over_tasks, out / "across.csv")
    write_table(costs, out / "cost.csv")
    write_table(curves, out / "curves.csv")
    write_summary(made, out / "provenance.json")
    write_summary(claims, out / "summary.json")
    write_summary(headline(claims, comparisons), out / "verdicts.json")
    for claim in claims["claims"]:
        print(f"{claim['question']} {claim['verdict'].capitalize()}. {claim['sentence']}")


def gather(study: Study, data: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """trials.csv, cost.csv, curves.csv and provenance.json, from results that are read once and not kept."""
    results = read_trials(study, data / "trials")
    check_results(study, Layout(data.parent), results)
    return (
        trials_table(study, results, Scores(data)),
        cost_table(study, data, results),
        curves_table(results),
        provenance(study, data, results),
    )


def warn_of_mixture(devices: Mapping[str, int]) -> None:
    """Say that trials were computed on different devices or in different precisions: their identities do not."""
    if len(devices) > 1:
        counts = "; ".join(f"{count} on {device}" for device, count in devices.items())
        log.warning(
            "not all trials were computed alike (%s): a difference between configurations may be due to that; "
            "to be sure set one `precision`, delete data/trials and run on one kind of device",
            counts,
        )


if __name__ == "__main__":
    main()
