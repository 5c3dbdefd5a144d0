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
    from kdcache.engine import share_cores, slots
    from kdcache.study import load_study
    from kdcache.system import processes
    from kdcache.trials.missing import cache_identity, cache_to_write
    from kdcache.trials.store import project_store

    study, store = load_study(), project_store()
    find("task", task, study.tasks)
    find("teacher", name, study.teachers)
    with exclusive(layout.cache(task, name)):
        plan = processes.from_main(lambda: cache_to_write(study, layout, task, name, store))
        if plan is None:
            return
        from kdcache.trials.cache import cache_logits  # imports torch: not before there is work

        share_cores()
        with slots.every():
            cache_logits(plan)
        if store is not None and processes.is_main():
            store.put("caches", cache_identity(plan), plan.folder)


if __name__ == "__main__":
    main()
