"""DVC stages `train` and `distill`: a configuration's missing trials, all its seeds in one process."""

from __future__ import annotations

import argparse

from kdcache.system.locks import exclusive
from kdcache.trials.applicable import left_out
from kdcache.trials.layout import Layout
from stages import find, names, stage_errors

ENGINES = ("local", "ray")


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.train", description=__doc__)
    parser.add_argument("--task")
    parser.add_argument("--student")
    parser.add_argument("--regularizer")
    parser.add_argument("--workers", type=_above_0, help="trials at once (default: KDCACHE_WORKERS)")
    parser.add_argument("--engine", choices=ENGINES, help="default: KDCACHE_ENGINE")
    args = parser.parse_args(arguments)
    layout = Layout()
    task, student, regularizer = names(args, "task", "student", "regularizer")
    configuration = (task, student, regularizer)
    if not left_out(layout.configuration(*configuration), "students", student, task):
        _run(layout, configuration, args.workers, args.engine)


def _run(
    layout: Layout, configuration: tuple[str, str, str], workers: int | None, engine: str | None
) -> None:
    from kdcache.engine import run_trials
    from kdcache.study import load_study
    from kdcache.system import processes
    from kdcache.trials.missing import check_still_asked_for, trials_to_run
    from kdcache.trials.store import project_store, run_and_store

    study, (task, student, regularizer) = load_study(), configuration
    find("task", task, study.tasks)
    find("student", student, study.students)
    find("regularizer or distiller", regularizer, study.methods())
    with exclusive(layout.configuration(*configuration)):
        plans = processes.from_main(lambda: trials_to_run(study, layout, *configuration, project_store()))
        run_trials(plans, run_and_store, workers=workers, engine=engine)
        check_still_asked_for(plans, layout)


def _above_0(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"a whole number above 0, found {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
