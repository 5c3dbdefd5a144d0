"""What a text checkpoint is worth: its accuracy after fine-tuning, beside the same model from scratch.

    python -m tools.checkpoints data/models/bert-tiny --card
    python -m tools.checkpoints data/models/bert-tiny --files train.parquet validation.parquet --label topic

Both starts get the same recipe and the same seeds, on the built-in BBC headlines and on the task given by --files.
Every run has one thread; KDCACHE_WORKERS says how many run at once. `--card` puts the table into the checkpoint's
README.md, in place of an earlier one.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from pydantic import BaseModel, ValidationError

from kdcache import engine
from kdcache.errors import KdcacheError
from kdcache.study import Student, Task
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.layout import trial_folder
from kdcache.trials.plan import TrialPlan, plain_trial
from kdcache.trials.result import TrialCost, read_cost
from kdcache.trials.scores import trial_scores
from stages import stage_errors

log = logging.getLogger(__name__)

Init = Literal["pretrained", "scratch"]
INITS: tuple[Init, ...] = get_args(Init)
HEADING = "Fine-tuned"

Checked = TypeVar("Checked", bound=BaseModel)


@dataclass(frozen=True)
class Measured:
    """The results on one task: for each start the validation accuracies, one a seed, as fractions."""

    card: TaskCard
    accuracy: dict[Init, list[float]]
    seconds: float  # of all its trainings
    device: str


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    from tools.pretraining.card import (
        add_to_card,
        read_card,
    )  # imports torch: not before the options are read

    args = _parse(arguments)
    if args.card:
        read_card(args.checkpoint)  # a missing card shows before the work, not after it
    with tempfile.TemporaryDirectory() as folder:
        measured = [_measure(args, name, task, Path(folder) / name) for name, task in _tasks(args).items()]
    print(table(measured))
    if args.card:
        add_to_card(args.checkpoint, HEADING, section(measured, args))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--files", nargs=2, metavar=("TRAIN", "VALIDATION"), help="another task's files")
    parser.add_argument("--files-only", action="store_true", help="leave out the built-in task")
    parser.add_argument("--text", nargs="+", default=["text"], help="text columns of --files, one or two")
    parser.add_argument("--label", default="label", help="label column of --files")
    parser.add_argument("--max-length", type=int, default=32, help="tokens of a row of --files (default: 32)")
    parser.add_argument("--card", action="store_true", help="put the table into the checkpoint's README.md")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error("--seeds must be 1 or more")
    if args.files_only and not args.files:
        parser.error("--files-only needs --files")
    return args


def _tasks(args: argparse.Namespace) -> dict[str, Task]:
    """The tasks by name. A task made of files is named after their folder."""
    tasks = {}
    if not args.files_only:
        source: dict[str, Any] = {"builtin": "bbc_headlines"}
        tasks["bbc-headlines"] = _task(source, text=["text"], max_length=24)
    if args.files:
        train, validation = args.files
        source = {"files": {"train": train, "validation": validation}}
        name = Path(train).resolve().parent.name
        if name in tasks:
            raise KdcacheError(
                f"{train}: its folder has the name of the built-in task, {name}, and a task is named after its folder; "
                "rename the folder, or give --files-only"
            )
        tasks[name] = _task(source, text=args.text, label=args.label, max_length=args.max_length)
    return tasks


def _task(source: dict[str, Any], **columns: Any) -> Task:
    return _checked(Task, source=source, metrics=["accuracy"], **columns)


def _checked(kind: type[Checked], **values: Any) -> Checked:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        mistakes = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise KdcacheError(f"{kind.__name__.lower()}: {'; '.join(mistakes)}") from None


def _measure(args: argparse.Namespace, name: str, task: Task, folder: Path) -> Measured:
    card = prepare_task(task, folder / "task", name)
    plans = {init: [_plan(args, folder, init, seed) for seed in range(args.seeds)] for init in INITS}
    engine.run_trials([plan for init in INITS for plan in plans[init]], run=run_on_one_thread)
    prepared = PreparedTask(folder / "task")
    costs = [_cost(plan) for init in INITS for plan in plans[init]]
    return Measured(
        card=card,
        accuracy={
            init: [trial_scores(plan.folder, prepared)["accuracy"] for plan in plans[init]] for init in INITS
        },
        seconds=sum(cost.seconds for cost in costs),
        device=costs[0].device,
    )


def _plan(args: argparse.Namespace, folder: Path, init: Init, seed: int) -> TrialPlan:
    student = _checked(
        Student,
        checkpoint=str(args.checkpoint),
        init=init,
        learning_rate=args.learning_rate,
        epochs=args.epochs,
        batch_size=args.batch_size,
    )
    name = f"{args.checkpoint.name}, {init}"
    return plain_trial(trial_folder(folder / init, seed), folder / "task", name, student, seed)


def run_on_one_thread(plan: TrialPlan) -> None:
    """Run a trial on one CPU thread, so that the numbers do not depend on how many cores there are."""
    import torch

    from kdcache.trials.run import run_trial

    torch.set_num_threads(1)
    run_trial(plan)


def _cost(plan: TrialPlan) -> TrialCost:
    cost = read_cost(plan.folder)
    assert cost is not None  # run_trials raises when one failed
    return cost


def table(measured: Sequence[Measured]) -> str:
    """A Markdown table, a row a task: accuracies in percent, their difference in points."""
    lines = [
        "| task | rows | largest class | pretrained | scratch | difference |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for task in measured:
        rows, counts = task.card.rows, task.card.class_counts["validation"]
        difference = 100 * (np.mean(task.accuracy["pretrained"]) - np.mean(task.accuracy["scratch"]))
        cells = [
            task.card.name,
            f"{rows['train']:,} train, {rows['validation']:,} validation",
            f"{100 * max(counts) / rows['validation']:.1f}",
            *(spread(task.accuracy[init]) for init in INITS),
            f"{difference:+.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(fractions: Sequence[float]) -> str:
    """Mean ± standard deviation (n - 1) in percent; a single value has no deviation."""
    percent = 100 * np.asarray(fractions)
    if len(percent) == 1:
        return f"{percent[0]:.1f}"
    return f"{percent.mean():.1f} ± {percent.std(ddof=1):.1f}"


def section(measured: Sequence[Measured], args: argparse.Namespace) -> str:
    """The card's section: the table, how it was made, and on what kind of machine."""
    from kdcache.system.devices import machine

    seeds = "one seed" if args.seeds == 1 else f"mean ± standard deviation over {args.seeds} seeds"
    lengths = ", ".join(f"{task.card.max_length} tokens ({task.card.name})" for task in measured)
    device = measured[0].device
    hardware = f"{machine(1)} a run" if device == "cpu" else device
    return (
        f"{table(measured)}\n\nValidation accuracy in %, {seeds}, after {args.epochs} epochs with batches of "
        f"{args.batch_size} and a peak learning rate of {args.learning_rate:g}, the same from both starts; "
        f"texts cut to {lengths}. Made by `python -m tools.checkpoints` in "
        f"{sum(task.seconds for task in measured):,.0f} s of training on {hardware}, {date.today().isoformat()}."
    )


if __name__ == "__main__":
    main()
