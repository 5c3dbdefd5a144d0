"""DVC stage: cache one fine-tuned teacher's logits on every split of a task, unless they are there."""

from __future__ import annotations

import argparse
import logging

from kdcache.checkpoints import fingerprints
from kdcache.engine import share_cores, slots
from kdcache.study import Study, load_study
from kdcache.system import processes
from kdcache.system.locks import exclusive
from kdcache.tasks.card import read_card
from kdcache.trials.identity import teacher_caches
from kdcache.trials.keeping import mark_inapplicable, trained_teacher, why_cache
from kdcache.trials.layout import cache_folder, task_folder, teacher_folder
from stages import find, stage_errors

log = logging.getLogger(__name__)


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.cache", description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--teacher", required=True)
    args = parser.parse_args(arguments)
    study = load_study()
    find("task", args.task, study.tasks)
    teacher = find("teacher", args.teacher, study.teachers)
    folder = cache_folder(args.task, args.teacher)
    with exclusive(folder):
        if not processes.from_main(lambda: _missing(study, args.task, args.teacher)):
            return
        from kdcache.trials.teach import cache_logits  # imports torch: not before there is work

        share_cores()
        taught = teacher_folder(args.task, args.teacher)
        with slots.every():
            cache_logits(args.teacher, task_folder(args.task), teacher, taught, folder)


def _missing(study: Study, task: str, name: str) -> bool:
    """Whether the logits have to be computed."""
    teacher, folder = study.teachers[name], cache_folder(task, name)
    if not study.applies(teacher, task):
        mark_inapplicable(folder, f"teachers.{name}.tasks does not list {task!r}")
        return False
    taught = teacher_folder(task, name)
    trained = trained_teacher(teacher, taught)
    weights = fingerprints.of_weights(taught)
    card = read_card(task_folder(task))
    reason = why_cache(folder, teacher_caches(card, trained, weights), taught)
    log.info("%s: %s", folder, f"computing logits ({reason})" if reason else "the logits are there already")
    return reason is not None


if __name__ == "__main__":
    main()
