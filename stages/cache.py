"""DVC stage: cache one fine-tuned teacher's logits on every split of a task, unless they are there."""

from __future__ import annotations

import argparse

from kdcache.system.locks import exclusive
from kdcache.trials.applicable import left_out
from kdcache.trials.layout import Layout
from stages import find, names, stage_errors


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.cache", description=__doc__)
    parser.add_argument("--task")
    parser.add_argument("--teacher")
    task, teacher = names(parser.parse_args(arguments), "task", "teacher")
    if not left_out(Layout().cache(task, teacher), "teachers", teacher, task):
        _run(Layout(), task, teacher)


def _run(layout: Layout, task: str, name: str) -> None:
    from kdcache.engine.teaching import make_cache
    from kdcache.study import load_study
    from kdcache.trials.store import project_store

    study = load_study()
    find("task", task, study.tasks)
    find("teacher", name, study.teachers)
    with exclusive(layout.cache(task, name)):
        make_cache(study, layout, task, name, project_store())


if __name__ == "__main__":
    main()
