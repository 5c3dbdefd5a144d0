"""A training's identity: a hash of all parts that decide its numbers, kept together with these parts.

The parts are: the data, what the model starts from, how it reads rows, its recipe, the method, the soft labels, the
seed and the code. Each result lists its parts. So a message can say what differs when an identity has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.errors import CacheError
from kdcache.hashing import fingerprint
from kdcache.logits import Fingerprints, LogitCache
from kdcache.logits.format import Manifest
from kdcache.logits.opening import open_cache
from kdcache.logits.parquet import shard_content
from kdcache.logits.places import PLAIN, UNLABELLED, VIEWS
from kdcache.study import Model, Regularizer, Task
from kdcache.tasks.card import TaskCard
from kdcache.trials import code

if TYPE_CHECKING:
    from kdcache.logits.tokens import TokenCache

# Parameters that name things, or say what is kept, without changing a trial's numbers. The things that they name (the
# checkpoint's weights, the teacher's logits) are in the identity by their fingerprints.
NAMES_ONLY = {"checkpoint", "revision", "tasks", "teacher", "keep", "cache"}
# Keys that were added later. They count only if they are given, so that identities without them stay as they are.
LATER = {"tail"}

Parts = dict[str, Any]


def common_parts(card: TaskCard, checkpoint: Checkpoint, model: Model, function: str | None = None) -> Parts:
    """The parts that all trainings of a model on a task share. This is slow: it hashes weights and code.

    Args:
        function: the method's own loss function. Its code counts too.
    """
    return {
        "data": card.fingerprint,
        "weights": checkpoint.weights_fingerprint,
        "preprocessing": _preprocessing(card, checkpoint),
        "recipe": model.model_dump(mode="json", exclude=NAMES_ONLY | {"seed"}),
        "code": code.of_training(card.language_modelling),
        "function": code.of_module(function.split(":")[0]) if function else None,
    }


def training_parts(common: Mapping[str, Any], method: Regularizer, seed: int, *soft_labels: str) -> Parts:
    """All parts of one training's identity.

    Args:
        common: see `common_parts`.
        soft_labels: only for distillers: the contents of the caches to learn from, in order; see `content_of`.
    """
    own = {
        "method": method.model_dump(exclude=NAMES_ONLY | left_out(method)),
        "soft_labels": list(soft_labels),
        "seed": seed,
    }
    return {**common, **own}


def left_out(method: Regularizer) -> set[str]:
    """The keys of a method that are left out of the identity because they are not given."""
    return {key for key in LATER if getattr(method, key) is None}


def identity_of(parts: Mapping[str, Any]) -> str:
    """The identity: a hash of the parts."""
    return fingerprint.of_json(parts)


def content_of(folder: Path) -> str:
    """A hash of a logit cache's content (rows, logits, label names, views), by whatever model or code it was computed.

    Soft labels count by their content. If other code gives the same logits for a teacher or a baseline's trial, the
    trials that learned from them stay valid.

    Raises:
        CacheError: there is no such cache, or a shard's footer is damaged.
    """
    try:
        cache = open_cache(folder)
        content = {
            "data": cache.manifest.fingerprints.data,
            **_labels(cache),
            "splits": {split: _contents(cache, split) for split in cache.splits},
        }
    except CacheError as error:
        raise CacheError(
            f"the logits to learn from are not there: {error} (`dvc repro` runs the stages that make them)"
        ) from None
    return fingerprint.of_json(content)


def _labels(cache: LogitCache | TokenCache) -> dict[str, Any]:
    """What kind of soft labels the cache holds."""
    manifest = cache.manifest
    if isinstance(manifest, Manifest):
        return {
            "label_names": manifest.label_names,
            "dtype": manifest.dtype,
            "augmentation": manifest.augmentation and manifest.augmentation.model_dump(),
        }
    return manifest.own_metadata()


def _contents(cache: LogitCache | TokenCache, split: str) -> list[str]:
    """The checksum of each shard's rows and logits, from the shard's footer. The manifest protects the shard."""
    return [shard_content(cache.path / shard.file) for shard in cache.manifest.splits[split].shards]


def learned_from(folders: Sequence[Path], method: Regularizer) -> list[Path]:
    """The logit caches whose contents count: the folders', and those of unlabelled rows if the method uses them."""
    unlabelled = [folder / UNLABELLED for folder in folders] if method.unlabelled == "use" else []
    return [*folders, *unlabelled]


def caches_beside(task: Task) -> list[str]:
    """The places of the further caches in a teacher's folder of logits, as the task in params.yaml declares them."""
    return [*[VIEWS] * (task.augment is not None), *[UNLABELLED] * task.has_unlabelled]


def teacher_caches(card: TaskCard, checkpoint: Checkpoint, weights: str) -> dict[str, Fingerprints]:
    """The caches in a teacher's folder of logits: for each place, the fingerprints of everything it is computed from.

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
    """The fingerprints of everything that a logit cache of labelled rows is computed from.

    Args:
        checkpoint: decides the preprocessing.
        weights: identifies the trained weights: their fingerprint, or the identity of the trial that trained them.
    """
    return Fingerprints(
        data=card.fingerprint,
        weights=weights,
        preprocessing=_preprocessing(card, checkpoint),
        code=code.of_inference(card.language_modelling),
    )


def _preprocessing(card: TaskCard, checkpoint: Checkpoint) -> str:
    """Fingerprint of how a model reads rows. It includes `augment`, so it covers the views too."""
    plain = checkpoint.preprocessing_fingerprint(card.max_length)
    if card.augment is None:
        return plain
    return fingerprint.of_json({"preprocessing": plain, "augment": card.augment.model_dump()})
