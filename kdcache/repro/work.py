"""Estimate what stages have to do from their folders; used for order and progress, never to decide what is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.repro.pipeline import Pipeline
from kdcache.system.names import SETTLED, TUNE
from kdcache.trials.layout import RESULT, Layout

if TYPE_CHECKING:
    from kdcache.study import Model, Study

PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Work:
    """The trials of each stage that runs trials, and the stages that are expected to have nothing to do.

    DVC has a stage for every pair of a task and a model, even for pairs that the study excludes. And after a change of
    settle.json DVC runs every stage, even those whose configurations have all their trials already.

    models: those that the study trains, for the modules that have to be imported; none if no stage needs a model.
    """

    trials: dict[str, int] = field(default_factory=dict)
    idle: set[str] = field(default_factory=set)
    models: list[Model] = field(default_factory=list)


def expected_work(pipeline: Pipeline, stages: Sequence[str]) -> Work:
    """The expected work of these stages; empty for a pipeline without params.yaml."""
    if not stages or not PARAMS.exists():
        return Work()
    from kdcache.study import load_study  # not before there is something to run

    study, layout = load_study(PARAMS), Layout()
    seeds = {layout.configuration(*names): study.seeds_of(*names) for names in study.configurations()}
    known = {path.resolve(): numbers for path, numbers in seeds.items()}
    models = {place(*names).resolve() for names in study.taught() for place in (layout.teacher, layout.cache)}
    work, with_models = Work(), False
    for stage in stages:
        out = pipeline.outs[stage][0].resolve() if pipeline.outs[stage] else None
        if stage == TUNE:
            work.trials[stage] = _of_tune(study, layout)
        elif out in known:
            kept = sum((out / f"seed-{seed}" / RESULT).exists() for seed in known[out])
            keeps = pipeline.changed.get(stage, set()) == {SETTLED}
            work.trials[stage] = len(known[out]) - (kept if keeps else 0)
            if keeps and not work.trials[stage]:
                work.idle.add(stage)
        elif out in models:
            with_models = True
        elif out is not None and _is_of_a_model(out, layout):
            work.idle.add(stage)
    if with_models or any(work.trials.values()):
        work.models.extend([*study.teachers.values(), *study.students.values()])
    return work


def _of_tune(study: Study, layout: Layout) -> int:
    """How many trials tune has to run: those of all settings, without those that have a result."""
    kept = len(list(layout.tuning.glob(f"*trials/*/*/*/*/*/{RESULT}")))
    return max(0, study.tuning_trials() - kept)


def _is_of_a_model(out: Path, layout: Layout) -> bool:
    """Whether a path is the place of a teacher, its logits or a student's trials."""
    return any(
        folder.resolve() in out.parents
        for folder in (layout.data / "teachers", layout.data / "logits", layout.data / "trials")
    )
