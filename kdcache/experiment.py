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

from kdcache import augmentation, checkpoints, fingerprint, scoring, training
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
    VIEWS,
    TrialPlan,
    TrialResult,
    logit_fingerprints,
    teacher_files,
    trained_teacher,
    write_result,
)

LIBRARIES = ("torch", "transformers", "accelerate", "numpy")

Logits = npt.NDArray[np.float32]


def teach(name: str, task_folder: Path, teacher: Teacher, folder: Path, identity: str) -> dict[str, Any]:
    """Fine-tune a teacher on a prepared task and save it as a checkpoint folder, with `teacher.json` written last.

    Returns:
        The content of teacher.json: params, metrics (see `_metrics`), steps, losses, seconds, peak memory, device.
    """
    card = read_card(task_folder)
    preprocessor = load_preprocessor(teacher, card)
    model = build_model(teacher, card, teacher.seed, preprocessor)
    splits = {split: _encode(task_folder, split, teacher) for split in card.evaluated}
    loss = make_loss(Regularizer(), card.classes, card.regression)
    train = _training_rows(task_folder, teacher, card)
    trained, run = training.fine_tune(model, train, loss, teacher, teacher.seed)
    logits = {split: _predicted(trained, rows, teacher) for split, rows in splits.items()}
    result = {
        "identity": identity,
        "task": card.name,
        "teacher": name,
        "family": checkpoints.family(teacher),
        "commit": checkpoints.commit(teacher),
        "params": teacher.model_dump(),
        "metrics": _metrics(logits, splits, card),
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
    """Write a fine-tuned teacher's logits on every split of the task as a logit cache."""
    card = read_card(task_folder)
    trained = trained_teacher(teacher, teacher_folder)
    model = build_model(trained, card, teacher.seed, load_preprocessor(trained, card))
    splits = {split: _encode(task_folder, split, trained) for split in ("train", *card.evaluated)}
    device = PartialState().device
    batches = {
        name: training.Batcher(data, training.pad_token(model), device) for name, data in splits.items()
    }
    if PartialState().is_main_process:
        for former in (MANIFEST, INAPPLICABLE):
            remove(folder / former)
        if card.augment is None and (folder / VIEWS).exists():
            shutil.rmtree(folder / VIEWS)
        # What the teacher cost goes with its logits: who has those need not fetch the weights.
        write_json(folder / TEACHER, read_json(teacher_folder / TEACHER))
    network = training.logits_of(model, teacher.precision)
    prints = logit_fingerprints(card, trained, weights=fingerprint.of_weights(teacher_folder))
    if card.augment is not None:
        images = augmentation.Images(task_folder, load_preprocessor(trained, card))
        write_logits(
            network,
            images,
            folder / VIEWS,
            label_names=card.label_names,
            collate=images.collate,
            batch_size=teacher.batch_size,
            row_hashes=splits["train"].row_hashes,
            augment=augmentation.transform(card.augment),
            augmentation=augmentation.recorded(card.augment),
            fingerprints=prints,
            run=f"teacher {name}, views",
            device=device,
            overwrite=True,
        )
    write_logits(
        network,
        batches,
        folder,
        label_names=card.label_names,
        collate=lambda batch: batch,  # a Batcher gives whole batches
        batch_size=teacher.batch_size,
        row_hashes={split: data.row_hashes for split, data in splits.items()},
        lengths={split: rows.lengths for split, rows in batches.items()},
        fingerprints=prints,
        score=lambda split, logits: _score(logits, splits[split], card),
        run=f"teacher {name}",
        device=device,
    )


def run_trial(plan: TrialPlan) -> None:
    """Train, score and save one trial; its result.json is written last."""
    card = read_card(plan.task_folder)
    train = _training_rows(plan.task_folder, plan.model, card)
    soft = _soft_logits(plan, card, train)
    model = build_model(plan.model, card, plan.seed, load_preprocessor(plan.model, card))
    loss = make_loss(plan.method, card.classes, card.regression)
    trained, run = training.fine_tune(model, train, loss, plan.model, plan.seed, soft)
    start = time.perf_counter()
    splits = {split: _encode(plan.task_folder, split, plan.model) for split in plan.splits}
    logits = {split: _predicted(trained, rows, plan.model) for split, rows in splits.items()}
    views = _predicted_views(trained, train, plan.model) if plan.keep_views else None
    if not PartialState().is_main_process:
        return
    rows = sum(map(len, logits.values()))
    cost = _cost(time.perf_counter() - start, rows, PartialState().device, plan.name)
    prints = logit_fingerprints(card, plan.model, weights=plan.identity)
    remove(plan.folder / RESULT)
    if views is not None:
        _write_views(plan.folder / LOGITS / VIEWS, card, prints, train, views)
    _write_cache(plan.folder / LOGITS, card, prints, splits, logits, cost)
    write_result(plan.folder, _result(plan, card, _metrics(logits, splits, card), run))


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
        teacher=plan.method.teacher_name(plan.model),
        regularizer=plan.regularizer,
        seed=plan.seed,
        params={"student": plan.model.model_dump(), "regularizer": plan.method.model_dump()},
        metrics=metrics,
        versions=versions(),
        **_figures(run),
    )


def _soft_logits(plan: TrialPlan, card: TaskCard, train: EncodedSplit) -> Logits | None:
    """The cached raw logits [N, K] that the plan learns from, in the order of the train rows; every row is checked.

    Of a task with `augment` those of each view, [N, V, K]. Of several teachers it is the mean of their logits, as
    `kdcache.logits.ensemble` makes by default: unlike the mean of probabilities it is one for every temperature, for
    logit matching and for a regression.
    """
    if not plan.soft_labels:
        return None
    logits = [_cached_logits(path, card, train) for path in plan.soft_labels]
    return np.asarray(np.mean(logits, axis=0, dtype=np.float64), dtype=np.float32)


def _cached_logits(path: Path, card: TaskCard, train: EncodedSplit) -> Logits:
    cache = LogitCache(path if card.augment is None else path / VIEWS)
    cached, expected = cache.manifest.fingerprints.data, card.fingerprint
    if cached != expected:
        raise CacheError(
            f"{cache.path}: its logits are of other data: the task {card.name!r} has fingerprint {expected}, "
            f"the cache {cached}; cache the logits again"
        )
    views = None if card.augment is None else augmentation.recorded(card.augment)
    if cache.manifest.augmentation != views:
        raise CacheError(
            f"{cache.path}: its logits are of other views: expected {views}, found {cache.manifest.augmentation}; "
            "cache the logits again"
        )
    return cache.logits("train", train.ids, train.row_hashes)


@functools.lru_cache(maxsize=8)
def _encode(task_folder: Path, split: str, model: Model) -> EncodedSplit:
    """Encoded once per process: all seeds of a configuration share it."""
    card = read_card(task_folder)
    return encode_split(task_folder, split, load_preprocessor(model, card))


def _training_rows(task_folder: Path, model: Model, card: TaskCard) -> EncodedSplit:
    """The train split, in every view where the task is augmented."""
    if card.augment is None:
        return _encode(task_folder, "train", model)
    return _encode_views(task_folder, model)


@functools.lru_cache(maxsize=1)
def _encode_views(task_folder: Path, model: Model) -> EncodedSplit:
    return augmentation.encode_views(task_folder, load_preprocessor(model, read_card(task_folder)))


def _predicted(trained: Any, split: EncodedSplit, model: Model) -> Logits:
    return training.predict(trained, split, model.batch_size, model.precision)


def _predicted_views(trained: Any, train: EncodedSplit, model: Model) -> Logits:
    """[N, V, K]: the logits of each view."""
    return np.stack([_predicted(trained, view, model) for view in train.views()], axis=1)


def _score(logits: Logits, split: EncodedSplit, card: TaskCard) -> dict[str, float]:
    names = scoring.applicable_metrics(card.classes, card.regression)
    return scoring.score(logits, split.labels, names, card.regression)


def _metrics(
    logits: Mapping[str, Logits], splits: Mapping[str, EncodedSplit], card: TaskCard
) -> dict[str, float]:
    """The scores on validation under their own names, then those on a further split as `<metric>_<split>`."""
    return {
        metric if split == "validation" else f"{metric}_{split}": value
        for split in card.evaluated
        for metric, value in _score(logits[split], splits[split], card).items()
    }


def _figures(run: training.Training) -> dict[str, Any]:
    return {
        "steps": run.steps,
        "losses": run.losses,
        "seconds": run.seconds,
        "peak_memory_mb": run.peak_memory_mb,
        "device": run.device,
        "precision": run.precision,
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


def _write_views(
    folder: Path, card: TaskCard, prints: Fingerprints, train: EncodedSplit, logits: Logits
) -> None:
    """The cache [N, V, K] of the train rows' views, beside the plain one: Self-KD's teacher of an augmented task."""
    assert card.augment is not None  # or there are no views
    with LogitWriter(
        folder,
        classes=card.classes,
        label_names=card.label_names,
        fingerprints=prints,
        augmentation=augmentation.recorded(card.augment),
    ) as writer:
        writer.write("train", train.ids, train.row_hashes, logits)
        writer.finish()


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}
