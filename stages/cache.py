"""DVC stage: cache one fine-tuned teacher's logits on a task's train and validation splits."""

from __future__ import annotations

import argparse

from kdcache import trials
from kdcache.params import load_study
from stages import layout, stage_errors


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.cache", description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--teacher", required=True)
    args = parser.parse_args(arguments)
    study = load_study()
    teacher = study.teachers[args.teacher]
    folder = layout.cache_folder(args.task, args.teacher)
    with trials.exclusive(folder):
        if not study.applies(teacher, args.task):
            trials.mark_inapplicable(folder, f"teachers.{args.teacher}.tasks does not list {args.task!r}")
            return
        from kdcache.experiment import cache_logits  # imports torch: not before there is work

        taught = layout.teacher_folder(args.task, args.teacher)
        cache_logits(args.teacher, layout.task_folder(args.task), teacher, taught, folder)


if __name__ == "__main__":
    main()
