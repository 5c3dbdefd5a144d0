"""Train one model by one method: its rows and soft logits, its initial weights, its loss, the loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.logits.places import PLAIN, UNLABELLED, VIEWS
from kdcache.modelling.adapting import merged, to_be_trained
from kdcache.modelling.augmentation import recorded
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedSplit
from kdcache.modelling.inputs import Inputs
from kdcache.study import Model, Regularizer
from kdcache.tasks.card import TaskCard
from kdcache.training.loop import Training, fine_tune
from kdcache.training.regularizers import make_loss
from kdcache.training.watching import NOBODY, Watch

Logits = npt.NDArray[np.float32]


def learn(
    inputs: Inputs,
    model: Model,
    method: Regularizer,
    seed: int,
    soft_labels: Sequence[Path] = (),
    watch: Watch = NOBODY,
) -> tuple[torch.nn.Module, Training]:
    """Train a model on a task by a method; everything random is drawn from the seed.

    Args:
        inputs: the task as the model takes it.
        soft_labels: folders of logits to learn from, see `kdcache.logits.places`; of several, the mean.
        watch: is told of each step, and may have a state to continue from; see `fine_tune`.

    Raises:
        KdcacheError: the logits are of other rows, the model does not fit the task, or the loss became infinite or NaN.
    """
    rows, soft_logits = learned_rows(inputs, method, soft_labels)
    card = inputs.card
    network = build_model(inputs.checkpoint, card, seed, inputs.preprocessor)
    weights = class_weights(model, rows.labels, card.classes)
    loss = make_loss(method, card.classes, card.regression, weights)
    with to_be_trained(network, model, seed) as trainee:
        trainee, run = fine_tune(trainee, rows, loss, model, seed, soft_logits, watch)
    return merged(trainee), run


def class_weights(model: Model, labels: npt.NDArray[Any], classes: int) -> list[float] | None:
    """The weight of each class: as given, or `balanced`, N / (K * rows of the class): all classes count alike.

    The mean of balanced weights over the rows is 1.

    Args:
        labels: [N], of the train rows.
    """
    if model.class_weights is None:
        return None
    if model.class_weights != "balanced":
        return list(model.class_weights)
    counts = np.bincount(labels.astype(np.int64), minlength=classes)
    return [len(labels) / (classes * max(1, int(count))) for count in counts]


def learned_rows(
    inputs: Inputs, method: Regularizer, soft_labels: Sequence[Path]
) -> tuple[EncodedSplit, Logits | None]:
    """The rows to train on and their soft logits: train, then the unlabelled rows if the method uses them."""
    train = inputs.training_rows()
    if not soft_labels:
        return train, None
    soft = mean_logits(soft_labels, inputs.card, "train", train)
    if method.unlabelled == "ignore":
        return train, soft
    more = inputs.training_rows(UNLABELLED)
    both = np.concatenate([soft, mean_logits(soft_labels, inputs.card, UNLABELLED, more)])
    return train.with_unlabelled(more), both


def mean_logits(folders: Sequence[Path], card: TaskCard, split: str, rows: EncodedSplit) -> Logits:
    """The cached raw logits [N, K] to learn from, in the order of the split's rows; every row is checked.

    With `augment`: those of each view, [N, V, K]. With several teachers: the mean of their logits, which is also the
    default of `kdcache.logits.ensemble`. Unlike the mean of probabilities it suits every temperature, logit matching
    and a regression.
    """
    logits = [_cached_logits(folder, card, split, rows) for folder in folders]
    return np.asarray(np.mean(logits, axis=0, dtype=np.float64), dtype=np.float32)


def _cached_logits(folder: Path, card: TaskCard, split: str, rows: EncodedSplit) -> Logits:
    place, data = PLAIN if card.augment is None else VIEWS, card.fingerprint
    if split == UNLABELLED and card.unlabelled is not None:
        place, data = UNLABELLED, card.unlabelled.fingerprint
    cache = LogitCache(folder / place)
    cached = cache.manifest.fingerprints.data
    if cached != data:
        raise CacheError(
            f"{cache.path}: its logits are of other data: the task {card.name!r} has fingerprint {data}, "
            f"the cache {cached}; cache the logits again"
        )
    views = None if card.augment is None else recorded(card.augment)
    if cache.manifest.augmentation != views:
        raise CacheError(
            f"{cache.path}: its logits are of other views: expected {views}, found {cache.manifest.augmentation}; "
            "cache the logits again"
        )
    return cache.logits(split, rows.ids, rows.row_hashes)
