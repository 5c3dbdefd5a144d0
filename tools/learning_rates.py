"""Choose each model's learning rate for a study: on the baseline alone, by a split of train, before any comparison.

    python -m tools.learning_rates studies/minilm-glue.yaml --rates minilm-l3=5e-5,1.5e-4 --out rates.json

A fifth of each task's train rows is held out (stratified). Each model is fine-tuned on the rest with plain
cross-entropy, once per rate and task. The chosen rate has the best mean over the tasks of their first metrics.
Validation data are never used. Every run has one thread; KDCACHE_WORKERS says how many run at once.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdcache import engine
from kdcache.errors import KdcacheError
from kdcache.study import Model, Student, Study, Task, load_study
from kdcache.system.files import write_json
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.subsets import stratified
from kdcache.trials.plan import TrialPlan, plain_trial
from kdcache.trials.scores import trial_scores
from stages import stage_errors

log = logging.getLogger(__name__)

HELD_OUT = 5  # one row of this many is held out
SEED = 0
Rates = dict[str, list[float]]


@dataclass(frozen=True)
class Run:
    """One fine-tuning: its model, rate and task, and the plan that has all of these."""

    model: str
    rate: float
    task: str
    plan: TrialPlan


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    study = load_study(args.study)
    with tempfile.TemporaryDirectory() as folder:
        for name, task in study.tasks.items():
            _prepare(task, Path(folder) / name, name, args.rows)
        runs = list(_runs(study, args.rates, Path(folder)))
        engine.run_trials([run.plan for run in runs], run=run_on_one_thread)
        chosen = _chosen(study, runs)
    for model, item in chosen.items():
        print(f"{model}: {item['chosen']:g} of {item['mean']}")
    write_json(args.out, {"how": _how(args), "models": chosen})


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument(
        "--rates", nargs="+", required=True, metavar="MODEL=RATE,RATE", type=_rates, help="what to try"
    )
    parser.add_argument("--rows", type=int, help="at most so many train rows of a task (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args(arguments)
    args.rates = dict(args.rates)
    return args


def _rates(text: str) -> tuple[str, list[float]]:
    model, _, rates = text.partition("=")
    try:
        return model, [float(rate) for rate in rates.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected MODEL=RATE,RATE, found {text!r}") from None


def _prepare(task: Task, folder: Path, name: str, rows: int | None) -> None:
    """Make the task whose train and validation splits are both parts of the original's train split."""
    card = prepare_task(task, folder / "whole", name)
    table = PreparedTask(folder / "whole").rows("train")
    if rows is not None and rows < table.num_rows:
        table = table.take(pa.array(stratified(table["label"].to_numpy(), rows, SEED)))
    held = stratified(table["label"].to_numpy(), table.num_rows // HELD_OUT, SEED)
    kept = sorted(set(range(table.num_rows)) - set(held.tolist()))
    files = {"train": folder / "train.parquet", "validation": folder / "validation.parquet"}
    for path, part in zip(files.values(), (kept, held), strict=True):
        pq.write_table(table.take(pa.array(part)), path)
    text = ["text", "text_pair"][: len(task.text or [])]
    source = {"files": {split: str(path) for split, path in files.items()}}
    columns = {"text": text} if text else {"image": "image"}
    split = Task.model_validate(
        {"source": source, **columns, "metrics": task.metrics, "max_length": card.max_length}
    )
    prepare_task(split, folder / "task", name)


def _runs(study: Study, rates: Rates, folder: Path) -> Iterator[Run]:
    models: dict[str, Model] = {**study.teachers, **study.students}
    for name, tried in rates.items():
        if name not in models:
            raise KdcacheError(f"--rates: no model {name!r}; there are: {', '.join(models)}")
        for task in study.tasks:
            if study.applies(models[name], task):
                for rate in tried:
                    yield Run(name, rate, task, _plan(folder, task, name, models[name], rate))


def _plan(folder: Path, task: str, name: str, model: Model, rate: float) -> TrialPlan:
    shared = {key: value for key, value in model.model_dump().items() if key in Model.model_fields}
    student = Student(**{**shared, "learning_rate": rate})
    run = folder / "runs" / task / name / f"{rate:g}"
    return plain_trial(run, folder / task / "task", name, student, SEED)


def run_on_one_thread(plan: TrialPlan) -> None:
    """Run one plan on one thread on any machine, like the studies that use these rates."""
    import torch

    from kdcache.trials.run import run_trial

    torch.set_num_threads(1)
    run_trial(plan)


def _chosen(study: Study, runs: list[Run]) -> dict[str, dict[str, Any]]:
    """For each model every score, for each rate the mean over tasks, and the rate with the best mean."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for run in runs:
        metric = study.tasks[run.task].metrics[0]
        score = trial_scores(run.plan.folder, PreparedTask(run.plan.task_folder))[metric]
        scores.setdefault(run.model, {}).setdefault(f"{run.rate:g}", {})[run.task] = score
    return {model: _best(tried) for model, tried in scores.items()}


def _best(tried: dict[str, dict[str, float]]) -> dict[str, Any]:
    mean = {rate: round(sum(by.values()) / len(by), 4) for rate, by in tried.items()}
    return {"chosen": float(max(mean, key=mean.__getitem__)), "mean": mean, "scores": tried}


def _how(args: argparse.Namespace) -> str:
    rows = f"at most {args.rows} train rows a task" if args.rows else "all train rows"
    return (
        f"{args.study.as_posix()}: {rows}, one in {HELD_OUT} of them held out; plain cross-entropy, seed {SEED}; "
        "the mean over the tasks of their first metric on the rows held out"
    )


if __name__ == "__main__":
    main()
