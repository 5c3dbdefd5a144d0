"""DVC stage: fine-tune one teacher on one task. Nothing is trained when the folder already holds that very teacher."""

from __future__ import annotations

import argparse
import logging

from kdcache.system.locks import exclusive
from kdcache.trials.applicable import left_out
from kdcache.trials.layout import Layout
from stages import find, names, stage_errors

log = logging.getLogger(__name__)


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.teach", description=__doc__)
    parser.add_argument("--task")
    parser.add_argument("--teacher")
    task, teacher = names(parser.parse_args(arguments), "task", "teacher")
    if not left_out(Layout().teacher(task, teacher), "teachers", teacher, task):
        _run(Layout(), task, teacher)


def _run(layout: Layout, task: str, name: str) -> None:
    from kdcache.engine import share_cores, slots
    from kdcache.study import load_study
    from kdcache.system import processes
    from kdcache.trials.missing import check_still_asked_for, teacher_to_train
    from kdcache.trials.store import project_store

    study, store = load_study(), project_store()
    find("task", task, study.tasks)
    find("teacher", name, study.teachers)
    with exclusive(layout.teacher(task, name)):
        plan = processes.from_main(lambda: teacher_to_train(study, layout, task, name, store))
        if plan is None:
            return
        from kdcache.trials.teach import teach  # imports torch: not before there is work

        share_cores()
        with slots.every():
            result = teach(plan)
        if store is not None and processes.is_main():
            store.put("teachers", plan.identity, plan.folder)
        check_still_asked_for([plan], layout)
        log.info("%s: validation %s", plan.folder, result["metrics"])


if __name__ == "__main__":
    main()
