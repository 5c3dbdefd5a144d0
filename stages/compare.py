"""Compare every configuration with its baseline: `python -m stages.compare` writes metrics/."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcache.errors import ComparisonError
from kdcache.results.checking import check_results
from kdcache.results.evaluation import Evaluation
from kdcache.results.gather import cost_table, curves_table, read_trials, trials_table
from kdcache.results.provenance import provenance
from kdcache.results.teachers import bytes_per_token, teachers_table
from kdcache.results.writing import as_written, write_summary, write_table
from kdcache.statistics import (
    compare,
    compare_across_tasks,
    compare_calibration,
    compare_examples,
    compare_storage,
    headline,
    summarize,
    tabulate_looks,
    tabulate_reliability,
)
from kdcache.statistics.learned import without_unlearned
from kdcache.study import Study, load_study
from kdcache.study.metrics import unit_of
from kdcache.system.names import SETTLED, TUNED
from kdcache.trials.layout import Layout
from stages import stage_errors

log = logging.getLogger(__name__)
# What dvc.yaml names as the stage's params; settle.json and tuned.json are among its deps.
PARAMS = ("seeds", "tasks", "teachers", "students", "regularizers", "distillers", "comparison")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(),
        help="the project, with the other stages' results (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Layout().metrics, help="default: %(default)s")
    return parser.parse_args(arguments)


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    study = load_study(options.params)
    write_metrics(study, Layout(options.root), options.out)
    check_still_asked_for(study, options.params)


def check_still_asked_for(study: Study, params: Path) -> None:
    """Refuse if what was compared is asked for otherwise now: DVC would record the new params for the old metrics.

    Raises:
        ComparisonError: the study file, settle.json or tuned.json was changed; names the key or the file.
    """
    now = _asked(load_study(params))
    changed = next((key for key, value in _asked(study).items() if now[key] != value), None)
    if changed is not None:
        place = params.with_name(changed) if changed in (SETTLED, TUNED) else f"{params}: {changed}"
        raise ComparisonError(
            f"{place} was changed while the study was compared; the metrics are of what was asked for when it began: "
            "run again"
        )


def _asked(study: Study) -> dict[str, Any]:
    """What the stage depends on, by key of the study file; then what the files beside it say."""
    return {
        **{key: getattr(study, key) for key in PARAMS},
        SETTLED: (list(study.all_trials()), study.declarations),
        TUNED: (
            [study.as_tuned(*names) for names in study.configurations()],
            [study.teacher(*names) for names in study.taught()],
        ),
    }


def write_metrics(study: Study, layout: Layout, out: Path) -> None:
    """Everything is computed before anything is written; each file is whole or absent."""
    data = layout.data
    results = read_trials(study, data / "trials")
    check_results(study, layout, results)
    made = provenance(study, data, results)
    warn_of_mixture(made["devices"])
    evaluation = Evaluation(study, data, results)
    examples = compare_examples(study, evaluation.outputs)  # the pass over all logits, so it comes first
    trials = trials_table(study, results, evaluation.scores)
    majorities = {
        task: unit_of(study.tasks[task].metrics[0]).size * facts["majority"]
        for task, facts in made["tasks"].items()
        if facts["majority"] is not None
    }
    comparisons = without_unlearned(compare(trials, study), trials, study, majorities)
    looks = tabulate_looks(trials, study)
    claims = summarize(trials, study, comparisons, majorities)
    storage = compare_storage(trials, study, bytes_per_token(study, data))
    if len(storage):
        claims["storage"] = as_written(storage)
    tables = {
        "trials": trials,
        "comparisons": comparisons,
        "looks": looks,
        "examples": examples,
        "calibration": compare_calibration(trials, study),
        "reliability": tabulate_reliability(study, evaluation.sureness),
        "across": compare_across_tasks(trials, study),
        "cost": cost_table(study, data, results),
        "curves": curves_table(results),
        "teachers": teachers_table(study, data, trials),
    }
    summaries = {"provenance": made, "summary": claims, "verdicts": headline(claims, comparisons)}
    for name, table in tables.items():
        write_table(table, out / f"{name}.csv")
    for name, summary in summaries.items():
        write_summary(summary, out / f"{name}.json")
    for claim in claims["claims"]:
        print(f"{claim['question']} {claim['answer']}. {claim['sentence']}")


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
