"""Fine-tune a teacher and save it as a checkpoint folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from kdcache.modelling.inputs import Inputs, open_inputs
from kdcache.modelling.predicting import predict
from kdcache.study import Regularizer, Teacher
from kdcache.system.files import remove, write_json
from kdcache.system.threads import torch_threads
from kdcache.training.learning import learn
from kdcache.training.loop import Training
from kdcache.trials.layout import TEACHER
from kdcache.trials.plan import TeacherPlan
from kdcache.trials.result import learned_with, write_cost
from kdcache.trials.run import training_cost
from kdcache.trials.saved_models import teacher_files
from kdcache.trials.saving import save_checkpoint
from kdcache.trials.scores import named, score_logits
from kdcache.trials.tokens.running import teach_on_documents
from kdcache.trials.watching import TrainingWatch, watched


def teach(plan: TeacherPlan) -> dict[str, Any]:
    """Fine-tune a teacher on a prepared task and save it. `teacher.json` is written last.

    Returns:
        The content of teacher.json: identity and its parts, params, metrics, steps, losses, device.
    """
    watching = watched(plan.name, plan.identity, {"teacher": plan.model.model_dump()})
    with torch_threads(plan.model.threads), watching as watch:
        return _teach(plan, watch)


def _teach(plan: TeacherPlan, watch: TrainingWatch) -> dict[str, Any]:
    model = plan.model
    learned = teach_on_documents if plan.language_modelling else _teach_on_rows
    inputs, trained, run, scores = learned(plan, watch)
    result: dict[str, Any] = {
        "identity": plan.identity,
        "parts": plan.parts,
        "task": inputs.card.name,
        "teacher": plan.teacher,
        "family": inputs.checkpoint.family,
        "commit": inputs.checkpoint.commit,
        "params": model.model_dump(exclude={"cache"}),
        "metrics": scores,
        "steps": run.steps,
        "losses": run.losses,
        "device": run.device,
        "precision": run.precision,
        "versions": learned_with(model),
    }
    if PartialState().is_main_process:
        _save(trained, inputs, plan.folder, result, run)
        watch.scores(lambda: scores)
    return result


def _teach_on_rows(plan: TeacherPlan, watch: TrainingWatch) -> tuple[Inputs, Any, Training, dict[str, float]]:
    inputs = open_inputs(plan.task_folder, plan.model, plan.data)
    trained, run = learn(inputs, plan.model, Regularizer(), plan.model.seed, watch=watch)
    return inputs, trained, run, _scores(trained, inputs, plan.model)


def _scores(trained: Any, inputs: Inputs, model: Teacher) -> dict[str, float]:
    scores = {}
    for split in inputs.card.evaluated:
        rows = inputs.rows(split)
        logits = predict(trained, rows, model.batch_size, model.precision)
        for metric, value in score_logits(logits, rows.labels, inputs.card).items():
            scores[named(metric, split)] = value
    return scores


def _save(model: Any, inputs: Inputs, folder: Path, result: Mapping[str, Any], run: Training) -> None:
    """Save the model. teacher.json is removed first and written last: if it is there, the folder is complete."""
    remove(folder / TEACHER)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    save_checkpoint(model, inputs, folder)
    write_cost(folder, training_cost(run))
    write_json(folder / TEACHER, {**result, "files": teacher_files(folder)})
