"""DVC stage: cache one fine-tuned teacher's logits on every split of a task, unless they are there."""

from __future__ import annotations

import argparse

from kdcache.engine import share_cores, slots
from kdcache.study import load_study
from kdcache.system import processes
from kdcache.system.locks import exclusive
from kdcache.trials.layout import Layout
from kdcache.trials.missing import cache_identity, cache_to_write
from kdcache.trials.store import project_store
from stages import find, stage_errors


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.cache", description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--teacher", required=True)
    args = parser.parse_args(arguments)
    study, layout, store = load_study(), Layout(), project_store()
    find("task", args.task, study.tasks)
    find("teacher", args.teacher, study.teachers)
    with exclusive(layout.cache(args.task, args.teacher)):
        plan = processes.from_main(lambda: cache_to_write(study, layout, args.task, args.teacher, store))
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
