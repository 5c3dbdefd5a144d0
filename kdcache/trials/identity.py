"""A trial's identity: a hash of all that decides its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcache.checkpoints import find
from kdcache.hashing import fingerprint
from kdcache.logits import Fingerprints
from kdcache.study import UNLABELLED, Model, Regularizer
from kdcache.tasks.card import TaskCard
from kdcache.trials import code
from kdcache.trials.layout import PLAIN, VIEWS

# Parameters that name things or choose where they run, without changing a trial's numbers: what they stand for
# (the checkpoint's weights, the teacher's logits) is in the identity by its fingerprint.
NAMES_ONLY = {"checkpoint", "revision", "tasks", "teacher"}


def training_identity(card: TaskCard, model: Model, method: Regularizer, seed: int, *soft_labels: str) -> str:
    """Hash of all that decides a trained model's numbers: data, start, preprocessing, method, seed and code.

    Args:
        soft_labels: for distillers, the identities of the logit caches that the method learns from, in order.
    """
    return identity_from(training_basis(card, model, method.function), method, seed, *soft_labels)


def training_basis(card: TaskCard, model: Model, function: str | None = None) -> dict[str, Any]:
    """What the identities of a model's trainings on a task have in common; hashing weights and code takes a while.

    Args:
        function: a method's own loss, whose code counts too.
    """
    return {
        "data": card.fingerprint,
        "weights": find.weights_fingerprint(model),
        "preprocessing": _preprocessing(card, model),
        "recipe": model.model_dump(exclude=NAMES_ONLY | {"seed"}),
        "code": code.of_packages(code.TRAINING),
        "function": code.of_module(function.split(":")[0]) if function else None,
    }


def identity_from(basis: Mapping[str, Any], method: Regularizer, seed: int, *soft_labels: str) -> str:
    """The identity of one training, see `training_identity`."""
    parts = {"method": method.model_dump(exclude=NAMES_ONLY), "soft_labels": soft_labels, "seed": seed}
    return fingerprint.of_json({**basis, **parts})


def _preprocessing(card: TaskCard, model: Model) -> str:
    """How a model is given the rows. With `augment` it stands for the views too, so that a distiller's identity, in
    which a cache's fingerprints are, covers the cache of views beside it."""
    plain = find.preprocessing_fingerprint(model, card.max_length)
    if card.augment is None:
        return plain
    return fingerprint.of_json({"preprocessing": plain, "augment": card.augment.model_dump()})


def teacher_caches(card: TaskCard, model: Model, weights: str) -> dict[str, Fingerprints]:
    """The caches that a teacher's folder of logits has, by their place in it, and what each is computed from.

    The arguments are those of `logit_fingerprints`.
    """
    plain = logit_fingerprints(card, model, weights)
    found = {PLAIN: plain}
    if card.augment is not None:
        found[VIEWS] = plain
    if card.unlabelled is not None:
        found[UNLABELLED] = plain.model_copy(update={"data": card.unlabelled.fingerprint})
    return found


def logit_fingerprints(card: TaskCard, model: Model, weights: str) -> Fingerprints:
    """What a logit cache of labelled rows is computed from.

    Args:
        model: the trained model's checkpoint decides the preprocessing.
        weights: stands for the trained weights: their fingerprint, or the identity of the trial that trained them.
    """
    return Fingerprints(
        data=card.fingerprint,
        weights=weights,
        preprocessing=_preprocessing(card, model),
        code=code.of_packages(code.INFERENCE),
    )
