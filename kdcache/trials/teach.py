"""Fine-tune teachers and students on a prepared task, and keep their logits: what the stages run.

`teach` makes a teacher, `cache_logits` its logit cache, `run_trial` one trial of a student. All three use the same
training loop, the same scoring and the same cache format.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from kdcache.checkpoints import find, fingerprints
from kdcache.errors import CacheError
from kdcache.logits import Fingerprints, LogitCache, write_logits
from kdcache.logits.format import MANIFEST
from kdcache.modelling import augmentation
from kdcache.modelling.batches import Batcher, pad_token
from kdcache.modelling.building import build_model, save_model
from kdcache.modelling.predicting import logits_of
from kdcache.modelling.preprocessors import Preprocessor, load_preprocessor
from kdcache.study import UNLABELLED, Model, Regularizer, Teacher
from kdcache.system.files import read_json, remove, write_json
from kdcache.tasks.card import read_card
from kdcache.tasks.prepared import load_split
from kdcache.training.loop import fine_tune
from kdcache.training.regularizers import make_loss
from kdcache.trials.identity import teacher_caches
from kdcache.trials.keeping import teacher_files, trained_teacher
from kdcache.trials.layout import BESIDE, INAPPLICABLE, PLAIN, TEACHER, VIEWS
from kdcache.trials.result import versions
from kdcache.trials.shared import (
    encoded_split,
    figures,
    predicted_logits,
    score_logits,
    split_metrics,
    training_rows,
)


def teach(name: str, task_folder: Path, teacher: Teacher, folder: Path, identity: str) -> dict[str, Any]:
    """Fine-tune a teacher on a prepared task and save it as a checkpoint folder, with `teacher.json` written last.

    Returns:
        The content of teacher.json: params, metrics (see `_metrics`), steps, losses, seconds, peak memory, device.
    """
    card = read_card(task_folder)
    preprocessor = load_preprocessor(teacher, card)
    model = build_model(teacher, card, teacher.seed, preprocessor)
    splits = {split: encoded_split(task_folder, split, teacher) for split in card.evaluated}
    loss = make_loss(Regularizer(), card.classes, card.regression)
    train = training_rows(task_folder, "train", teacher, card)
    trained, run = fine_tune(model, train, loss, teacher, teacher.seed)
    logits = {split: predicted_logits(trained, rows, teacher) for split, rows in splits.items()}
    result = {
        "identity": identity,
        "task": card.name,
        "teacher": name,
        "family": find.family(teacher),
        "commit": find.commit(teacher),
        "params": teacher.model_dump(),
        "metrics": split_metrics(logits, splits, card),
        **figures(run),
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
    wanted = teacher_caches(card, trained, weights=fingerprints.of_weights(teacher_folder))
    if PartialState().is_main_process:
        _clear(folder, wanted)
        # What the teacher cost goes with its logits: who has those need not fetch the weights.
        write_json(folder / TEACHER, read_json(teacher_folder / TEACHER))
    for part, prints in wanted.items():
        write = functools.partial(
            write_logits,
            logits_of(model, teacher.precision),
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
    rows = {split: encoded_split(task_folder, split, trained) for split in splits}
    batches = {split: Batcher(data, pad, device) for split, data in rows.items()}
    write(
        batches,
        collate=lambda batch: batch,  # a Batcher gives whole batches
        row_hashes={split: data.row_hashes for split, data in rows.items()},
        lengths={split: data.lengths for split, data in batches.items()},
        score=None if UNLABELLED in splits else lambda split, logits: score_logits(logits, rows[split], card),
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
