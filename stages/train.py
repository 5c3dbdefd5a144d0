"""DVC stages `train` and `distill`: a configuration's missing trials, all its seeds in one process."""

from __future__ import annotations

import argparse

from kdcache import engine
from kdcache.study import load_study
from kdcache.system import processes
from kdcache.system.locks import exclusive
from kdcache.trials.layout import Layout
from kdcache.trials.missing import trials_to_run
from kdcache.trials.store import project_store, run_and_store
from stages import find, stage_errors


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.train", description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--regularizer", required=True)
    parser.add_argument("--workers", type=_above_0, help="trials at once (default: KDCACHE_WORKERS)")
    parser.add_argument("--engine", choices=engine.ENGINES, help="default: KDCACHE_ENGINE")
    args = parser.parse_args(arguments)
    study, layout = load_study(), Layout()
    find("task", args.task, study.tasks)
    find("student", args.student, study.students)
    find("regularizer or distiller", args.regularizer, study.methods())
    configuration = (args.task, args.student, args.regularizer)
    with exclusive(layout.configuration(*configuration)):
        plans = processes.from_main(lambda: trials_to_run(study, layout, *configuration, project_store()))
        engine.run_trials(plans, run_and_store, workers=args.workers, engine=args.engine)


def _above_0(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"a whole number above 0, found {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
