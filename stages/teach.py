"""DVC stage: fine-tune one teacher on one task. Nothing is trained when the folder already holds that very teacher."""

from __future__ import annotations

import argparse
import logging

from kdcache.engine import share_cores, slots
from kdcache.study import load_study
from kdcache.system import processes
from kdcache.system.locks import exclusive
from kdcache.trials.layout import Layout
from kdcache.trials.missing import teacher_to_train
from kdcache.trials.store import project_store
from stages import find, stage_errors

log = logging.getLogger(__name__)


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.teach", description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--teacher", required=True)
    args = parser.parse_args(arguments)
    study, layout, store = load_study(), Layout(), project_store()
    find("task", args.task, study.tasks)
    find("teacher", args.teacher, study.teachers)
    with exclusive(layout.teacher(args.task, args.teacher)):
        plan = processes.from_main(lambda: teacher_to_train(study, layout, args.task, args.teacher, store))
        if plan is None:
            return
        from kdcache.trials.teach import teach  # imports torch: not before there is work

        share_cores()
        with slots.every():
            result = teach(plan)
        if store is not None and processes.is_main():
            store.put("teachers", plan.identity, plan.folder)
        log.info("%s: validation %s", plan.folder, result["metrics"])


if __name__ == "__main__":
    main()
