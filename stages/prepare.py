"""Load, check and prepare one task: `python -m stages.prepare --task NAME`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdcache.study import load_study
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


if __name__ == "__main__":
    main()
