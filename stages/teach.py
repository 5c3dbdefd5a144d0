"""DVC stage: fine-tune one teacher on one task. Nothing is trained when the folder already holds that very teacher."""

from __future__ import annotations

import argparse

from kdcache.system.locks import exclusive
from kdcache.trials.applicable import left_out
from kdcache.trials.layout import Layout
from stages import find, names, stage_errors


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.teach", description=__doc__)
    parser.add_argument("--task")
    parser.add_argument("--teacher")
    task, teacher = names(parser.parse_args(arguments), "task", "teacher")
    if not left_out(Layout().teacher(task, teacher), "teachers", teacher, task):
        _run(Layout(), task, teacher)


def _run(layout: Layout, task: str, name: str) -> None:
    from kdcache.engine.teaching import make_teacher
    from kdcache.study import load_study
    from kdcache.trials.missing import check_still_asked_for
    from kdcache.trials.store import project_store

    study = load_study()
    find("task", task, study.tasks)
    find("teacher", name, study.teachers)
    with exclusive(layout.teacher(task, name)):
        plan = make_teacher(study, layout, task, name, project_store())
        if plan is not None:
            check_still_asked_for([plan], layout)


if __name__ == "__main__":
    main()
