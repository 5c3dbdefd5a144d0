"""DVC stages `train` and `distill`: a configuration's missing trials, all its seeds in one process."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdcache import engine, trials
from kdcache.logits import LogitCache
from kdcache.params import Study, load_study
from kdcache.tasks import read_card
from stages import layout, stage_errors


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.train", description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--regularizer", required=True)
    args = parser.parse_args(arguments)
    study = load_study()
    folder = layout.configuration_folder(args.task, args.student, args.regularizer)
    with trials.exclusive(folder):
        if not study.applies(study.students[args.student], args.task):
            trials.mark_inapplicable(folder, f"students.{args.student}.tasks does not list {args.task!r}")
            return
        plans = {seed: _plan(study, args.task, args.student, args.regularizer, seed) for seed in study.seeds}
        missing = trials.reconcile(folder, {seed: plan.identity for seed, plan in plans.items()})
        engine.run_trials([plans[seed] for seed in missing])


def _plan(study: Study, task: str, student: str, regularizer: str, seed: int) -> trials.TrialPlan:
    model, method = study.students[student], study.method(regularizer)
    soft_labels = _soft_labels(study, task, student, regularizer, seed)
    source = None if soft_labels is None else LogitCache(soft_labels).identity
    card = read_card(layout.task_folder(task))
    return trials.TrialPlan(
        folder=trials.trial_folder(layout.configuration_folder(task, student, regularizer), seed),
        identity=trials.training_identity(card, model, method, seed, source),
        task=task,
        task_folder=layout.task_folder(task),
        student=student,
        model=model,
        regularizer=regularizer,
        method=method,
        seed=seed,
        soft_labels=soft_labels,
        keep_train_logits=regularizer == study.comparison.baseline,
    )


def _soft_labels(study: Study, task: str, student: str, regularizer: str, seed: int) -> Path | None:
    """The logit cache a distiller learns from: a teacher's, or the baseline trial's of the same seed (Self-KD)."""
    kind = study.method(regularizer).soft_labels
    if kind == "teacher":
        return layout.cache_folder(task, str(study.students[student].teacher))
    if kind == "self":
        baseline = layout.configuration_folder(task, student, study.comparison.baseline)
        return trials.trial_folder(baseline, seed) / "logits"
    return None


if __name__ == "__main__":
    main()
