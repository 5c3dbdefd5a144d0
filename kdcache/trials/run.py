"""Run one trial of a student."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from kdcache.checkpoints import find
from kdcache.errors import CacheError
from kdcache.logits import Cost, Fingerprints, LogitCache, LogitWriter
from kdcache.modelling import augmentation
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedSplit
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import UNLABELLED, Model
from kdcache.system.devices import device_name, peak_memory_mb
from kdcache.system.files import remove
from kdcache.tasks.card import TaskCard, read_card
from kdcache.training.loop import Training, fine_tune
from kdcache.training.regularizers import make_loss
from kdcache.trials.identity import logit_fingerprints
from kdcache.trials.layout import LOGITS, PLAIN, RESULT, VIEWS
from kdcache.trials.plan import TrialPlan
from kdcache.trials.result import TrialResult, versions, write_result
from kdcache.trials.shared import (
    Logits,
    encoded_split,
    figures,
    predicted_logits,
    score_logits,
    split_metrics,
    training_rows,
)


def run_trial(plan: TrialPlan) -> None:
    """Train, score and save one trial; its result.json is written last."""
    card = read_card(plan.task_folder)
    train = training_rows(plan.task_folder, "train", plan.model, card)
    rows, soft = _learned_rows(plan, card, train)
    model = build_model(plan.model, card, plan.seed, load_preprocessor(plan.model, card))
    loss = make_loss(plan.method, card.classes, card.regression)
    trained, run = fine_tune(model, rows, loss, plan.model, plan.seed, soft)
    start = time.perf_counter()
    splits = {split: encoded_split(plan.task_folder, split, plan.model) for split in plan.splits}
    logits = {split: predicted_logits(trained, rows, plan.model) for split, rows in splits.items()}
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
    write_result(plan.folder, _result(plan, card, split_metrics(logits, splits, card), run))


def _result(plan: TrialPlan, card: TaskCard, metrics: dict[str, float], run: Training) -> TrialResult:
    return TrialResult(
        identity=plan.identity,
        task=plan.task,
        student=plan.student,
        family=find.family(plan.model),
        init=plan.model.init,
        checkpoint=plan.model.checkpoint,
        commit=find.commit(plan.model),
        start=find.start_fingerprint(plan.model, card.max_length),
        layers=plan.model.layers,
        teacher=plan.method.teacher_name(plan.model),
        regularizer=plan.regularizer,
        seed=plan.seed,
        params={"student": plan.model.model_dump(), "regularizer": plan.method.model_dump()},
        metrics=metrics,
        versions=versions(),
        **figures(run),
    )


def _learned_rows(plan: TrialPlan, card: TaskCard, train: EncodedSplit) -> tuple[EncodedSplit, Logits | None]:
    """The rows that a plan trains on and their soft logits: train, then the unlabelled rows if its method uses them."""
    if not plan.soft_labels:
        return train, None
    soft = _soft_logits(plan, card, "train", train)
    if plan.method.unlabelled == "ignore":
        return train, soft
    more = training_rows(plan.task_folder, UNLABELLED, plan.model, card)
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


def _predicted_views(trained: Any, train: EncodedSplit, model: Model) -> Logits:
    """[N, V, K]: the logits of each view."""
    return np.stack([predicted_logits(trained, view, model) for view in train.views()], axis=1)


def _cost(seconds: float, rows: int, device: torch.device, run: str) -> Cost:
    return Cost(
        seconds=seconds,
        rows_per_second=rows / seconds,
        device=device_name(device),
        peak_memory_mb=peak_memory_mb(device),
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
        scores = {split: score_logits(values, splits[split], card) for split, values in logits.items()}
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
