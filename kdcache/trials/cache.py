"""Cache a fine-tuned teacher's logits on every split of its task."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence

from accelerate import PartialState

from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import CacheError
from kdcache.logits import LogitCache, write_logits
from kdcache.logits.places import BESIDE, PLAIN, UNLABELLED, VIEWS
from kdcache.logits.records import MANIFEST
from kdcache.modelling.augmentation import Images, recorded, transform
from kdcache.modelling.batches import Batcher, pad_token
from kdcache.modelling.building import build_model
from kdcache.modelling.inputs import Inputs
from kdcache.modelling.predicting import logits_of
from kdcache.modelling.tokens.building import build_causal_model
from kdcache.modelling.tokens.inputs import DocumentInputs
from kdcache.system.files import read_json, remove, write_json
from kdcache.system.threads import torch_threads
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.layout import INAPPLICABLE, TEACHER
from kdcache.trials.plan import CachePlan
from kdcache.trials.scores import score_logits
from kdcache.trials.tokens.caching import write_distributions
from kdcache.trials.tokens.checking import check_distributions

Write = Callable[..., LogitCache]


def cache_logits(plan: CachePlan) -> None:
    """Write a fine-tuned teacher's logits into the caches that the plan names.

    A cache that is whole and has the right fingerprints stays as it is.
    """
    with torch_threads(plan.model.threads):
        if plan.language_modelling:
            _cache_distributions(plan)
        else:
            _cache_rows(plan)


def _cache_rows(plan: CachePlan) -> None:
    inputs = Inputs(PreparedTask(plan.task_folder), find_checkpoint(plan.model))
    model = build_model(inputs.checkpoint, inputs.card, plan.model.seed, inputs.preprocessor)
    if PartialState().is_main_process:
        _clear(plan)
        write_json(plan.folder / TEACHER, read_json(plan.teacher_folder / TEACHER))
    for place, prints in plan.caches.items():
        write = functools.partial(
            write_logits,
            logits_of(model, plan.model.precision),
            path=plan.folder / place,
            label_names=inputs.card.label_names,
            batch_size=plan.model.batch_size,
            fingerprints=prints,
            run=f"teacher {plan.teacher}" if place == PLAIN else f"teacher {plan.teacher}, {place}",
            device=PartialState().device,
            overwrite=True,
        )
        pad = pad_token(model)
        if place == PLAIN:
            _write_rows(write, inputs, ("train", *inputs.card.evaluated), pad)
        elif inputs.card.augment is not None:
            _write_views(write, inputs, "train" if place == VIEWS else UNLABELLED)
        else:
            _write_rows(write, inputs, (UNLABELLED,), pad)


def _cache_distributions(plan: CachePlan) -> None:
    """Write a language model's distributions at every token of train and of the evaluated splits."""
    inputs = DocumentInputs(PreparedTask(plan.task_folder), find_checkpoint(plan.model))
    model = build_causal_model(inputs.checkpoint, inputs.card, plan.model.seed)
    if PartialState().is_main_process:
        _clear(plan)
        write_json(plan.folder / TEACHER, read_json(plan.teacher_folder / TEACHER))
    for place, prints in plan.caches.items():
        splits = ("train", *inputs.card.evaluated)
        run = f"teacher {plan.teacher}"
        write_distributions(model, inputs, splits, plan.model, plan.folder / place, prints, run)


def _clear(plan: CachePlan) -> None:
    """Remove caches that are no longer asked for, and the manifests of caches that have to be written again."""
    remove(plan.folder / INAPPLICABLE)
    for place in BESIDE:
        if place not in plan.caches and (plan.folder / place).exists():
            shutil.rmtree(plan.folder / place)
    for place, prints in plan.caches.items():
        try:
            if plan.language_modelling:
                check_distributions(plan.folder / place, plan.model.estimate, prints)
            else:
                LogitCache(plan.folder / place, prints).verify("full")
        except CacheError:
            remove(plan.folder / place / MANIFEST)


def _write_rows(write: Write, inputs: Inputs, splits: Sequence[str], pad: int) -> None:
    """Write the logits of rows that are not augmented. Splits with labels are scored."""
    rows = {split: inputs.rows(split) for split in splits}
    batches = {split: Batcher(data, pad, PartialState().device) for split, data in rows.items()}
    write(
        batches,
        collate=lambda batch: batch,  # a Batcher gives whole batches already
        row_hashes={split: data.row_hashes for split, data in rows.items()},
        lengths={split: data.lengths for split, data in batches.items()},
        score=None
        if UNLABELLED in splits
        else lambda split, logits: score_logits(logits, rows[split].labels, inputs.card),
    )


def _write_views(write: Write, inputs: Inputs, split: str) -> None:
    """Write the logits of every view of an augmented task's rows."""
    augment = inputs.card.augment
    assert augment is not None  # otherwise there are no views
    images = Images(inputs.task, split, inputs.preprocessor)
    write(
        {split: images},
        collate=images.collate,
        row_hashes=inputs.task.rows(split, ["row_hash"])["row_hash"].to_numpy(),
        augment=transform(augment),
        augmentation=recorded(augment),
    )
