"""DVC stage: fine-tune one teacher on one task. Nothing is trained when the folder already holds that very teacher."""

from __future__ import annotations

import argparse
import logging

from kdcache.engine import share_cores, slots
from kdcache.study import Regularizer, Study, load_study
from kdcache.system import processes
from kdcache.system.locks import exclusive
from kdcache.tasks.card import read_card
from kdcache.trials.identity import training_identity
from kdcache.trials.keeping import mark_inapplicable, why_teach
from kdcache.trials.layout import task_folder, teacher_folder
from stages import find, stage_errors

log = logging.getLogger(__name__)


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.teach", description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--teacher", required=True)
    args = parser.parse_args(arguments)
    study = load_study()
    find("task", args.task, study.tasks)
    teacher = find("teacher", args.teacher, study.teachers)
    folder = teacher_folder(args.task, args.teacher)
    with exclusive(folder):
        identity = processes.from_main(lambda: _missing(study, args.task, args.teacher))
        if identity is None:
            return
        from kdcache.trials.teach import teach  # imports torch: not before there is work

        share_cores()
        with slots.every():
            result = teach(args.teacher, task_folder(args.task), teacher, folder, identity)
        log.info("%s: validation %s, %.0f s", folder, result["metrics"], result["seconds"])


def _missing(study: Study, task: str, name: str) -> str | None:
    """The identity of the teacher to train; None when there is nothing to do."""
    teacher, folder = study.teachers[name], teacher_folder(task, name)
    if not study.applies(teacher, task):
        mark_inapplicable(folder, f"teachers.{name}.tasks does not list {task!r}")
        return None
    card = read_card(task_folder(task))
    identity = training_identity(card, teacher, Regularizer(), teacher.seed)
    reason = why_teach(folder, identity)
    log.info("%s: %s", folder, f"training ({reason})" if reason else "the teacher is there already")
    return identity if reason else None


if __name__ == "__main__":
    main()
