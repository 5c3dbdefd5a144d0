"""DVC stage: fine-tune one teacher on one task. Nothing is trained when the folder already holds that very teacher."""

from __future__ import annotations

import argparse
import logging

from kdcache import trials
from kdcache.params import Regularizer, load_study
from kdcache.tasks import read_card
from stages import layout, stage_errors

log = logging.getLogger(__name__)


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.teach", description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--teacher", required=True)
    args = parser.parse_args(arguments)
    study = load_study()
    teacher = study.teachers[args.teacher]
    folder = layout.teacher_folder(args.task, args.teacher)
    with trials.exclusive(folder):
        if not study.applies(teacher, args.task):
            trials.mark_inapplicable(folder, f"teachers.{args.teacher}.tasks does not list {args.task!r}")
            return
        card = read_card(layout.task_folder(args.task))
        identity = trials.training_identity(card, teacher, Regularizer(), teacher.seed)
        if trials.teacher_identity(folder) == identity:
            log.info("%s: the teacher is there already", folder)
            return
        from kdcache.experiment import teach  # imports torch: not before there is work

        result = teach(args.teacher, layout.task_folder(args.task), teacher, folder, identity)
        log.info("%s: validation %s, %.0f s", folder, result["metrics"], result["seconds"])


if __name__ == "__main__":
    main()
