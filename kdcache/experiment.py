"""Fine-tune teachers and students on a prepared task, and keep their logits: what the stages run.

`teach` makes a teacher, `cache_logits` its logit cache, `run_trial` one trial of a student. All three use the same
training loop, the same scoring and the same cache format.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState

from kdcache import checkpoints, fingerprint, scoring, training
from kdcache.errors import CacheError
from kdcache.files import read_json, remove, write_json
from kdcache.logits import Cost, Fingerprints, LogitCache, LogitWriter, write_logits
from kdcache.logits.format import MANIFEST
from kdcache.models import Preprocessor, build_model, load_preprocessor, save_model
from kdcache.params import Model, Regularizer, Teacher
from kdcache.regularizers import make_loss
from kdcache.tasks import EncodedSplit, TaskCard, encode_split, read_card
from kdcache.trials import (
    INAPPLICABLE,
    LOGITS,
    RESULT,
    TEACHER,
    TrialPlan,
    TrialResult,
    logit_fingerprints,
    teacher_files,
    trained_teacher,
    write_result,
)

SPLITS = ("train", "validation")
LIBRARIES = ("torch", "transformers", "accelerate", "numpy")

Logits = npt.NDArray[np.float32]


def teach(name: str, task_folder: Path, teacher: Teacher, folder: Path, identity: str) -> dict[str, Any]:
    """Fine-tune a teacher on a prepared task and save it as a checkpoint folder, with `teacher.json` written last.

    Returns:
        The content of teacher.json: params, metrics on validation, steps, losses, seconds, peak memory, device.
    """
    card = read_card(task_folder)
    preprocessor = load_preprocessor(teacher, card)
    model = build_model(teacher, card, teacher.seed, preprocessor)
    train, validation = (_encode(task_folder, split, teacher) for split in SPLITS)
    loss = make_loss(Regularizer(), card.classes, card.regression)
    trained, run = training.fine_tune(model, train, loss, teacher, teacher.seed)
    logits = training.predict(trained, validation, teacher.batch_size, teacher.precision)
    result = {
        "identity": identity,
        "task": card.name,
        "teacher": name,
        "family": checkpoints.family(teacher),
        "commit": checkpoints.commit(teacher),
        "params": teacher.model_dump(),
        "metrics": _score(logits, validation, card),
        **_figures(run),
        "versions": versions(),
    }
    if PartialState().is_main_process:
        _save_teacher(trained, preprocessor, folder, result)
    return result


def _save_teacher(model: Any, preprocessor: Preprocessor, folder: Path, result: Mapping[str, Any]) -> None:
    """teacher.json goes first and comes last: a folder that has it holds the whole teacher that it speaks of."""
    remove(folder / TEACHER)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    save_model(model, preprocessor, folder)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_json(folder / TEACHER, {**result, "files": teacher_files(folder)})


def cache_logits(name: str, task_folder: Path, teacher: Teacher, teacher_folder: Path, folder: Path) -> None:
    """Write a fine-tuned teacher's logits on the task's train and validation splits as a logit cache."""
    card = read_card(task_folder)
    trained = trained_teacher(teacher, teacher_folder)
    model = build_model(trained, card, teacher.seed, load_preprocessor(trained, card))
    splits = {split: _encode(task_folder, split, trained) for split in SPLITS}
    device = PartialState().device
    batches = {
        name: training.Batcher(data, training.pad_token(model), device) for name, data in splits.items()
    }
    if PartialState().is_main_process:
        for former in (MANIFEST, INAPPLICABLE):
            remove(folder / former)
        # What the teacher cost goes with its logits: who has those need not fetch the weights.
        write_json(folder / TEACHER, read_json(teacher_folder / TEACHER))
    write_logits(
        training.logits_of(model, teacher.precision),
        batches,
        folder,
        label_names=card.label_names,
        collate=lambda batch: batch,  # a Batcher gives whole batches
        batch_size=teacher.batch_size,
        row_hashes={split: data.row_hashes for split, data in splits.items()},
        lengths={split: rows.lengths for split, rows in batches.items()},
        fingerprints=logit_fingerprints(card, trained, weights=fingerprint.of_weights(teacher_folder)),
        score=lambda split, logits: _score(logits, splits[split], card),
        run=f"teacher {name}",
        device=device,
    )


def run_trial(plan: TrialPlan) -> None:
    """Train, score and save one trial; its result.json is written last."""
    card = read_card(plan.task_folder)
    splits = {split: _encode(plan.task_folder, split, plan.model) for split in SPLITS}
    soft = _soft_logits(plan, card, splits["train"])
    model = build_model(plan.model, card, plan.seed, load_preprocessor(plan.model, card))
    loss = make_loss(plan.method, card.classes, card.regression)
    trained, run = training.fine_tune(model, splits["train"], loss, plan.model, plan.seed, soft)
    start = time.perf_counter()
    logits = {
        split: training.predict(trained, splits[split], plan.model.batch_size, plan.model.precision)
        for split in plan.splits
    }
    if not PartialState().is_main_process:
        return
    rows = sum(map(len, logits.values()))
    cost = _cost(time.perf_counter() - start, rows, PartialState().device, plan.name)
    prints = logit_fingerprints(card, plan.model, weights=plan.identity)
    remove(plan.folder / RESULT)
    _write_cache(plan.folder / LOGITS, card, prints, splits, logits, cost)
    metrics = _score(logits["validation"], splits["validation"], card)
    write_result(plan.folder, _result(plan, card, metrics, run))


def _result(
    plan: TrialPlan, card: TaskCard, metrics: dict[str, float], run: training.Training
) -> TrialResult:
    return TrialResult(
        identity=plan.identity,
        task=plan.task,
        student=plan.student,
        family=checkpoints.family(plan.model),
        init=plan.model.init,
        checkpoint=plan.model.checkpoint,
        commit=checkpoints.commit(plan.model),
        start=checkpoints.start_fingerprint(plan.model, card.max_length),
        layers=plan.model.layers,
        teacher=plan.model.teacher,
        regularizer=plan.regularizer,
        seed=plan.seed,
        params={"student": plan.model.model_dump(), "regularizer": plan.method.model_dump()},
        metrics=metrics,
        versions=versions(),
        **_figures(run),
    )


def _soft_logits(plan: TrialPlan, card: TaskCard, train: EncodedSplit) -> Logits | None:
    """The cached raw logits [N, K] of the plan's teacher, in the order of the train rows; every row is checked."""
    if plan.soft_labels is None:
        return None
    cache = LogitCache(plan.soft_labels)
    cached, expected = cache.manifest.fingerprints.data, card.fingerprint
    if cached != expected:
        raise CacheError(
            f"{cache.path}: its logits are of other data: the task {card.name!r} has fingerprint {expected}, "
            f"the cache {cached}; cache the logits again"
        )
    return cache.logits("train", train.ids, train.row_hashes)


@functools.lru_cache(maxsize=4)
def _encode(task_folder: Path, split: str, model: Model) -> EncodedSplit:
    """Encoded once per process: all seeds of a configuration share it."""
    card = read_card(task_folder)
    return encode_split(task_folder, split, load_preprocessor(model, card))


def _score(logits: Logits, split: EncodedSplit, card: TaskCard) -> dict[str, float]:
    names = scoring.applicable_metrics(card.classes, card.regression)
    return scoring.score(logits, split.labels, names, card.regression)


def _figures(run: training.Training) -> dict[str, Any]:
    return {
        "steps": run.steps,
        "losses": run.losses,
        "seconds": run.seconds,
        "peak_memory_mb": run.peak_memory_mb,
        "device": run.device,
    }


def _cost(seconds: float, rows: int, device: torch.device, run: str) -> Cost:
    return Cost(
        seconds=seconds,
        rows_per_second=rows / seconds,
        device=training.device_name(device),
        peak_memory_mb=training.peak_memory_mb(device),
        run=run,
    )


def _write_cache(
    folder: Path,
    card: TaskCard,
    prints: Fingerprints,
    splits: Mapping[str, EncodedSplit],
    logits: Mapping[str, Logits],
    cost: Cost,
) -> None:
    with LogitWriter(
        folder, classes=card.classes, label_names=card.label_names, fingerprints=prints
    ) as writer:
        for split, values in logits.items():
            writer.write(split, splits[split].ids, splits[split].row_hashes, values)
        scores = {split: _score(values, splits[split], card) for split, values in logits.items()}
        writer.finish(scores=scores, cost=cost)


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}
