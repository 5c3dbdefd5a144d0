"""DVC stage: cache one fine-tuned teacher's logits on every split of a task, unless they are there."""

from __future__ import annotations

import argparse
import logging

from kdcache import fingerprint, processes, trials
from kdcache.engine import share_cores, slots
from kdcache.params import Study, load_study
from kdcache.tasks import read_card
from stages import find, layout, stage_errors

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
    folder = layout.cache_folder(args.task, args.teacher)
    with trials.exclusive(folder):
        if not processes.from_main(lambda: _missing(study, args.task, args.teacher)):
            return
        from kdcache.experiment import cache_logits  # imports torch: not before there is work

        share_cores()
        taught = layout.teacher_folder(args.task, args.teacher)
        with slots.every():
            cache_logits(args.teacher, layout.task_folder(args.task), teacher, taught, folder)


def _missing(study: Study, task: str, name: str) -> bool:
    """Whether the logits have to be computed."""
    teacher, folder = study.teachers[name], layout.cache_folder(task, name)
    if not study.applies(teacher, task):
        trials.mark_inapplicable(folder, f"teachers.{name}.tasks does not list {task!r}")
        return False
    taught = layout.teacher_folder(task, name)
    trained = trials.trained_teacher(teacher, taught)
    weights = fingerprint.of_weights(taught)
    card = read_card(layout.task_folder(task))
    reason = trials.why_cache(folder, trials.teacher_caches(card, trained, weights), taught)
    log.info("%s: %s", folder, f"computing logits ({reason})" if reason else "the logits are there already")
    return reason is not None


if __name__ == "__main__":
    main()
