"""What teachers and trials do alike: encode, predict, score."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.modelling import augmentation
from kdcache.modelling.encoding import EncodedSplit, encode_split
from kdcache.modelling.predicting import predict
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import Model
from kdcache.tasks import scoring
from kdcache.tasks.card import TaskCard, read_card
from kdcache.training.loop import Training

Logits = npt.NDArray[np.float32]


@functools.lru_cache(maxsize=8)
def encoded_split(task_folder: Path, split: str, model: Model) -> EncodedSplit:
    """Encoded once per process: all seeds of a configuration share it."""
    card = read_card(task_folder)
    return encode_split(task_folder, split, load_preprocessor(model, card))


def training_rows(task_folder: Path, split: str, model: Model, card: TaskCard) -> EncodedSplit:
    """A split to train on, train or unlabelled: in every view where the task is augmented."""
    if card.augment is None:
        return encoded_split(task_folder, split, model)
    return _encode_views(task_folder, split, model)


@functools.lru_cache(maxsize=2)
def _encode_views(task_folder: Path, split: str, model: Model) -> EncodedSplit:
    return augmentation.encode_views(task_folder, split, load_preprocessor(model, read_card(task_folder)))


def predicted_logits(trained: Any, split: EncodedSplit, model: Model) -> Logits:
    return predict(trained, split, model.batch_size, model.precision)


def score_logits(logits: Logits, split: EncodedSplit, card: TaskCard) -> dict[str, float]:
    names = scoring.applicable_metrics(card.classes, card.regression)
    return scoring.score(logits, split.labels, names, card.regression)


def split_metrics(
    logits: Mapping[str, Logits], splits: Mapping[str, EncodedSplit], card: TaskCard
) -> dict[str, float]:
    """The scores on validation under their own names, then those on a further split as `<metric>_<split>`."""
    return {
        metric if split == "validation" else f"{metric}_{split}": value
        for split in card.evaluated
        for metric, value in score_logits(logits[split], splits[split], card).items()
    }


def figures(run: Training) -> dict[str, Any]:
    return {
        "steps": run.steps,
        "losses": run.losses,
        "seconds": run.seconds,
        "peak_memory_mb": run.peak_memory_mb,
        "device": run.device,
        "precision": run.precision,
    }
