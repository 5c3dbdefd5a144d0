"""Run one trial of a student: train it, keep its logits or likelihoods, and write its result last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate import PartialState

from kdcache.logits import Cost, Fingerprints, LogitWriter
from kdcache.logits.places import VIEWS
from kdcache.modelling.augmentation import recorded
from kdcache.modelling.inputs import Inputs, open_inputs
from kdcache.modelling.predicting import predict, predict_views
from kdcache.system.devices import device_name, peak_memory_mb
from kdcache.system.files import remove
from kdcache.training.learning import learn
from kdcache.training.loop import Training
from kdcache.trials.identity import logit_fingerprints
from kdcache.trials.layout import LOGITS, MODEL, RESULT
from kdcache.trials.likelihoods import checksum_in, path_of
from kdcache.trials.plan import TrialPlan
from kdcache.trials.result import TrialCost, TrialResult, learned_with, write_cost, write_result
from kdcache.trials.saving import save_student
from kdcache.trials.scores import trial_scores
from kdcache.trials.tokens.running import run_on_documents
from kdcache.trials.watching import TrainingWatch, watched

Logits = npt.NDArray[np.float32]


def run_trial(plan: TrialPlan) -> None:
    """Train, predict and save one trial, with its model if that is to be kept; result.json is written last.

    Raises:
        KdcacheError: the task was prepared anew in the meantime, the logits to learn from belong to other rows, or
            training failed.
    """
    with watched(plan.name, plan.identity, plan.described["params"]) as watch:
        learned = run_on_documents if plan.language_modelling else _run_on_rows
        inputs, trained, run = learned(plan, watch)
        if not PartialState().is_main_process:
            return
        write_cost(plan.folder, training_cost(run))
        result = _result(plan, inputs, run)
        if plan.keep_model:
            save_student(trained, inputs, plan.folder, plan.folder / MODEL, result)
        write_result(plan.folder, result)
        watch.scores(lambda: trial_scores(plan.folder, inputs.task))


def _run_on_rows(plan: TrialPlan, watch: TrainingWatch) -> tuple[Inputs, Any, Training]:
    """Train one trial on labelled rows and keep its logits."""
    inputs = open_inputs(plan.task_folder, plan.model, plan.data)
    trained, run = learn(inputs, plan.model, plan.method, plan.seed, plan.soft_labels, watch)
    start = time.perf_counter()
    how = plan.model.batch_size, plan.model.precision
    logits = {split: predict(trained, inputs.rows(split), *how) for split in plan.splits}
    views = predict_views(trained, inputs.training_rows(), *how) if plan.keep_views else None
    if PartialState().is_main_process:
        remove(plan.folder / RESULT)
        cost = _prediction_cost(time.perf_counter() - start, sum(map(len, logits.values())), plan.name)
        _write_logits(plan, inputs, logits, views, cost)
    return inputs, trained, run


def training_cost(run: Training) -> TrialCost:
    """Time, memory and device of a training."""
    return TrialCost(seconds=run.seconds, peak_memory_mb=run.peak_memory_mb, device=run.device)


def _result(plan: TrialPlan, inputs: Inputs, run: Training) -> TrialResult:
    checkpoint = inputs.checkpoint
    return TrialResult(
        identity=plan.identity,
        parts=plan.parts,
        family=checkpoint.family,
        commit=checkpoint.commit,
        start=checkpoint.start_fingerprint(inputs.card.max_length),
        **plan.described,
        steps=run.steps,
        losses=run.losses,
        device=run.device,
        precision=run.precision,
        versions=learned_with(plan.model),
        likelihoods=_likelihoods(plan) if plan.language_modelling else None,
    )


def _likelihoods(plan: TrialPlan) -> dict[str, str]:
    return {split: checksum_in(path_of(plan.folder, split)) for split in plan.evaluated}


def _prediction_cost(seconds: float, rows: int, run: str) -> Cost:
    device = PartialState().device
    return Cost(
        seconds=seconds,
        rows_per_second=rows / seconds if seconds else 0.0,
        device=device_name(device),
        peak_memory_mb=peak_memory_mb(device),
        run=run,
    )


def _write_logits(
    plan: TrialPlan, inputs: Inputs, logits: Mapping[str, Logits], views: Logits | None, cost: Cost
) -> None:
    """Write the trial's own cache [N, K]. For a baseline on an augmented task, write its views' cache [N, V, K] too."""
    folder, card = plan.folder / LOGITS, inputs.card
    prints = logit_fingerprints(card, inputs.checkpoint, weights=plan.identity)
    if views is not None and card.augment is not None:
        more = {"augmentation": recorded(card.augment)}
        with _writer(inputs, folder / VIEWS, prints, **more) as writer:
            train = inputs.training_rows()
            writer.write("train", train.ids, train.row_hashes, views)
            writer.finish()
    with _writer(inputs, folder, prints) as writer:
        for split, values in logits.items():
            rows = inputs.rows(split)
            writer.write(split, rows.ids, rows.row_hashes, values)
        writer.finish(cost=cost)


def _writer(inputs: Inputs, folder: Any, prints: Fingerprints, **more: Any) -> LogitWriter:
    card = inputs.card
    return LogitWriter(
        folder, classes=card.classes, label_names=card.label_names, fingerprints=prints, **more
    )
