"""A training's identity: the hash of all that decides its numbers, kept beside what it is the hash of.

Its parts: the data, what the model starts from, how it is given the rows, its recipe, the method, the soft labels, the
seed and the code. A result says what they were, so it shows what differs when an identity is no longer asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.errors import CacheError
from kdcache.hashing import fingerprint
from kdcache.logits import Fingerprints, LogitCache
from kdcache.logits.parquet import shard_content
from kdcache.logits.places import PLAIN, UNLABELLED, VIEWS
from kdcache.study import Model, Regularizer, Task
from kdcache.tasks.card import TaskCard
from kdcache.trials import code

# Parameters that name things, or say what is kept, without changing a trial's numbers: what names stand for (the
# checkpoint's weights, the teacher's logits) is in the identity by its fingerprint.
NAMES_ONLY = {"checkpoint", "revision", "tasks", "teacher", "keep"}

Parts = dict[str, Any]


def common_parts(card: TaskCard, checkpoint: Checkpoint, model: Model, function: str | None = None) -> Parts:
    """The parts that all trainings of a model on a task share; hashing weights and code takes a while.

    Args:
        function: a method's own loss, whose code counts too.
    """
    return {
        "data": card.fingerprint,
        "weights": checkpoint.weights_fingerprint,
        "preprocessing": _preprocessing(card, checkpoint),
        "recipe": model.model_dump(mode="json", exclude=NAMES_ONLY | {"seed"}),
        "code": code.of_packages(code.TRAINING),
        "function": code.of_module(function.split(":")[0]) if function else None,
    }


def training_parts(common: Mapping[str, Any], method: Regularizer, seed: int, *soft_labels: str) -> Parts:
    """All parts of one training's identity.

    Args:
        common: see `common_parts`.
        soft_labels: for distillers, the contents of the caches that are learned from, in order; see `content_of`.
    """
    own = {"method": method.model_dump(exclude=NAMES_ONLY), "soft_labels": list(soft_labels), "seed": seed}
    return {**common, **own}


def identity_of(parts: Mapping[str, Any]) -> str:
    """The identity that such parts give."""
    return fingerprint.of_json(parts)


def content_of(folder: Path) -> str:
    """What a logit cache says, whoever computed it and however: rows, logits, label names, views.

    Soft labels count by their content: when a teacher or a baseline's trial comes out the same by other code, what
    learned from it stays valid.

    Raises:
        CacheError: there is no such cache, or a shard's footer is damaged.
    """
    try:
        cache = LogitCache(folder)
        manifest = cache.manifest
        content = {
            "data": manifest.fingerprints.data,
            "label_names": manifest.label_names,
            "dtype": manifest.dtype,
            "augmentation": manifest.augmentation and manifest.augmentation.model_dump(),
            "splits": {split: _contents(cache, split) for split in cache.splits},
        }
    except CacheError as error:
        raise CacheError(
            f"the logits to learn from are not there: {error} (`dvc repro` runs the stages that make them)"
        ) from None
    return fingerprint.of_json(content)


def _contents(cache: LogitCache, split: str) -> list[str]:
    """The checksum of each shard's rows and logits; the manifest protects the shards that have it in their footers."""
    return [shard_content(cache.path / shard.file) for shard in cache.manifest.splits[split].shards]


def learned_from(folders: Sequence[Path], method: Regularizer) -> list[Path]:
    """The logit caches whose contents count: the folders', and of unlabelled rows if the method uses them."""
    beside = [folder / UNLABELLED for folder in folders] if method.unlabelled == "use" else []
    return [*folders, *beside]


def caches_beside(task: Task) -> list[str]:
    """The further caches that a teacher's folder of logits has, by what params.yaml says of the task."""
    return [*[VIEWS] * (task.augment is not None), *[UNLABELLED] * task.has_unlabelled]


def teacher_caches(card: TaskCard, checkpoint: Checkpoint, weights: str) -> dict[str, Fingerprints]:
    """The caches that a teacher's folder of logits has, by their place in it, and what each is computed from.

    The arguments are those of `logit_fingerprints`.
    """
    plain = logit_fingerprints(card, checkpoint, weights)
    caches = {PLAIN: plain}
    if card.augment is not None:
        caches[VIEWS] = plain
    if card.unlabelled is not None:
        caches[UNLABELLED] = plain.model_copy(update={"data": card.unlabelled.fingerprint})
    return caches


def logit_fingerprints(card: TaskCard, checkpoint: Checkpoint, weights: str) -> Fingerprints:
    """What a logit cache of labelled rows is computed from.

    Args:
        checkpoint: decides the preprocessing.
        weights: stands for the trained weights: their fingerprint, or the identity of the trial that trained them.
    """
    return Fingerprints(
        data=card.fingerprint,
        weights=weights,
        preprocessing=_preprocessing(card, checkpoint),
        code=code.of_packages(code.INFERENCE),
    )


def _preprocessing(card: TaskCard, checkpoint: Checkpoint) -> str:
    """How a model is given the rows; with `augment` in every view, so that it stands for the views too."""
    plain = checkpoint.preprocessing_fingerprint(card.max_length)
    if card.augment is None:
        return plain
    return fingerprint.of_json({"preprocessing": plain, "augment": card.augment.model_dump()})
