"""Load, check and prepare one task: `python -m stages.prepare --task NAME`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdcache.errors import TaskError
from kdcache.study import Task, load_study
from kdcache.tasks.prepare import prepare_task
from kdcache.trials.layout import Layout
from stages import find, names, stage_errors


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.prepare", description=__doc__)
    parser.add_argument(
        "--task", metavar="NAME", help="a key of `tasks` in the study; default: what DVC runs the stage for"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: data/tasks/NAME")
    return parser.parse_args(arguments)


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    (name,) = names(options, "task")
    study = load_study(options.params)
    task = find("task", name, study.tasks, options.params)
    prepare_task(task, options.out or Layout().task(name), name)
    # dvc.yaml names this folder as a dependency of `distill`; without teachers nothing else makes it.
    Layout().caches(name).mkdir(parents=True, exist_ok=True)
    check_still_asked_for(name, task, options.params)


def check_still_asked_for(name: str, task: Task, params: Path) -> None:
    """Refuse if the task was changed while it was prepared: DVC would record the new params for the old data.

    Raises:
        TaskError: the study file now says something else about the task, or nothing.
    """
    if load_study(params).tasks.get(name) != task:
        raise TaskError(
            f"{params}: tasks.{name} was changed while the task was prepared; what was prepared is what was asked for "
            "when it began: run again"
        )


if __name__ == "__main__":
    main()
