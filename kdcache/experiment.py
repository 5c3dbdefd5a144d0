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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState

from kdcache import augmentation, checkpoints, fingerprint, scoring, training
from kdcache.batches import Batcher, pad_token
from kdcache.errors import CacheError
from kdcache.files import read_json, remove, write_json
from kdcache.logits import Cost, Fingerprints, LogitCache, LogitWriter, write_logits
from kdcache.logits.format import MANIFEST
from kdcache.models import Preprocessor, build_model, load_preprocessor, save_model
from kdcache.params import UNLABELLED, Model, Regularizer, Teacher
from kdcache.regularizers import make_loss
from kdcache.tasks import EncodedSplit, TaskCard, encode_split, load_split, read_card
from kdcache.trials import (
    BESIDE,
    INAPPLICABLE,
    LOGITS,
    PLAIN,
    RESULT,
    TEACHER,
    VIEWS,
    TrialPlan,
    TrialResult,
    logit_fingerprints,
    teacher_caches,
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
    train = _training_rows(task_folder, "train", teacher, card)
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
    """Write a fine-tuned teacher's logits on every split of the task as logit caches (see `trials.teacher_caches`).

    A cache that is there, whole and of the same fingerprints, stays as it is.
    """
    card = read_card(task_folder)
    trained = trained_teacher(teacher, teacher_folder)
    model = build_model(trained, card, teacher.seed, load_preprocessor(trained, card))
    wanted = teacher_caches(card, trained, weights=fingerprint.of_weights(teacher_folder))
    if PartialState().is_main_process:
        _clear(folder, wanted)
        # What the teacher cost goes with its logits: who has those need not fetch the weights.
        write_json(folder / TEACHER, read_json(teacher_folder / TEACHER))
    for part, prints in wanted.items():
        write = functools.partial(
            write_logits,
            training.logits_of(model, teacher.precision),
            path=folder / part,
            label_names=card.label_names,
            batch_size=teacher.batch_size,
            fingerprints=prints,
            run=f"teacher {name}" if part == PLAIN else f"teacher {name}, {part}",
            device=PartialState().device,
            overwrite=True,
        )
        if part == PLAIN:
            _cache_rows(write, task_folder, ("train", *card.evaluated), trained, model)
        elif card.augment is not None:
            _cache_views(write, task_folder, "train" if part == VIEWS else UNLABELLED, trained)
        else:
            _cache_rows(write, task_folder, (UNLABELLED,), trained, model)


def _clear(folder: Path, wanted: Mapping[str, Fingerprints]) -> None:
    """Remove what is no longer asked for, and the manifests of caches that have to be written again."""
    remove(folder / INAPPLICABLE)
    for part in BESIDE:
        if part not in wanted and (folder / part).exists():
            shutil.rmtree(folder / part)
    for part, prints in wanted.items():
        try:
            LogitCache(folder / part, prints).verify("full")
        except CacheError:
            remove(folder / part / MANIFEST)


def _cache_rows(
    write: Callable[..., LogitCache], task_folder: Path, splits: Sequence[str], trained: Model, model: Any
) -> None:
    """The rows as they are; those with labels are scored."""
    card, pad, device = read_card(task_folder), pad_token(model), PartialState().device
    rows = {split: _encode(task_folder, split, trained) for split in splits}
    batches = {split: Batcher(data, pad, device) for split, data in rows.items()}
    write(
        batches,
        collate=lambda batch: batch,  # a Batcher gives whole batches
        row_hashes={split: data.row_hashes for split, data in rows.items()},
        lengths={split: data.lengths for split, data in batches.items()},
        score=None if UNLABELLED in splits else lambda split, logits: _score(logits, rows[split], card),
    )


def _cache_views(write: Callable[..., LogitCache], task_folder: Path, split: str, trained: Model) -> None:
    """The rows of an augmented task in each of their views."""
    card = read_card(task_folder)
    assert card.augment is not None  # or there are no views
    images = augmentation.Images(task_folder, split, load_preprocessor(trained, card))
    write(
        {split: images},
        collate=images.collate,
        row_hashes=load_split(task_folder, split, ["row_hash"])["row_hash"].to_numpy(),
        augment=augmentation.transform(card.augment),
        augmentation=augmentation.recorded(card.augment),
    )


def run_trial(plan: TrialPlan) -> None:
    """Train, score and save one trial; its result.json is written last."""
    card = read_card(plan.task_folder)
    train = _training_rows(plan.task_folder, "train", plan.model, card)
    rows, soft = _learned_rows(plan, card, train)
    model = build_model(plan.model, card, plan.seed, load_preprocessor(plan.model, card))
    loss = make_loss(plan.method, card.classes, card.regression)
    trained, run = training.fine_tune(model, rows, loss, plan.model, plan.seed, soft)
    start = time.perf_counter()
    splits = {split: _encode(plan.task_folder, split, plan.model) for split in plan.splits}
    logits = {split: _predicted(trained, rows, plan.model) for split, rows in splits.items()}
    views = _predicted_views(trained, train, plan.model) if plan.keep_views else None
    if not PartialState().is_main_process:
        return
    predicted = sum(map(len, logits.values()))
    cost = _cost(time.perf_counter() - start, predicted, PartialState().device, plan.name)
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


def _learned_rows(plan: TrialPlan, card: TaskCard, train: EncodedSplit) -> tuple[EncodedSplit, Logits | None]:
    """The rows that a plan trains on and their soft logits: train, then the unlabelled rows if its method uses them."""
    if not plan.soft_labels:
        return train, None
    soft = _soft_logits(plan, card, "train", train)
    if plan.method.unlabelled == "ignore":
        return train, soft
    more = _training_rows(plan.task_folder, UNLABELLED, plan.model, card)
    return train.with_unlabelled(more), np.concatenate([soft, _soft_logits(plan, card, UNLABELLED, more)])


def _soft_logits(plan: TrialPlan, card: TaskCard, split: str, rows: EncodedSplit) -> Logits:
    """The cached raw logits [N, K] that the plan learns from, in the order of the split's rows; every row is checked.

    Of a task with `augment` those of each view, [N, V, K]. Of several teachers it is the mean of their logits, as
    `kdcache.logits.ensemble` makes by default: unlike the mean of probabilities it is one for every temperature, for
    logit matching and for a regression.
    """
    logits = [_cached_logits(path, card, split, rows) for path in plan.soft_labels]
    return np.asarray(np.mean(logits, axis=0, dtype=np.float64), dtype=np.float32)


def _cached_logits(path: Path, card: TaskCard, split: str, rows: EncodedSplit) -> Logits:
    part, expected = PLAIN if card.augment is None else VIEWS, card.fingerprint
    if split == UNLABELLED and card.unlabelled is not None:
        part, expected = UNLABELLED, card.unlabelled.fingerprint
    cache = LogitCache(path / part)
    cached = cache.manifest.fingerprints.data
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
    return cache.logits(split, rows.ids, rows.row_hashes)


@functools.lru_cache(maxsize=8)
def _encode(task_folder: Path, split: str, model: Model) -> EncodedSplit:
    """Encoded once per process: all seeds of a configuration share it."""
    card = read_card(task_folder)
    return encode_split(task_folder, split, load_preprocessor(model, card))


def _training_rows(task_folder: Path, split: str, model: Model, card: TaskCard) -> EncodedSplit:
    """A split to train on, train or unlabelled: in every view where the task is augmented."""
    if card.augment is None:
        return _encode(task_folder, split, model)
    return _encode_views(task_folder, split, model)


@functools.lru_cache(maxsize=2)
def _encode_views(task_folder: Path, split: str, model: Model) -> EncodedSplit:
    return augmentation.encode_views(task_folder, split, load_preprocessor(model, read_card(task_folder)))


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


@functools.cache  # each look-up parses a package's whole metadata, README and all
def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}
