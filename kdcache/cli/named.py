"""Check what a study file names: data, checkpoints and functions, before anything runs.

Nothing is downloaded, and torch is imported only if a method has a function of the user's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from kdcache.checkpoints.checkpoint import Checkpoint, read_settings
from kdcache.checkpoints.faithful import IMAGE_SETTINGS, check_faithful
from kdcache.checkpoints.find import find_checkpoint, find_local
from kdcache.checkpoints.fingerprints import TOKENIZER_FILES
from kdcache.checkpoints.mirror import MIRROR
from kdcache.errors import KdcacheError, ModelError
from kdcache.study import Study, Task
from kdcache.study.methods import Regularizer
from kdcache.study.models import Model
from kdcache.tasks.prepare import check_source

DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # a config.json has one of them, or none
SETTINGS = {
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    IMAGE_SETTINGS,
}
VOCABULARIES = sorted({*TOKENIZER_FILES} - SETTINGS)


def find_mistakes(study: Study) -> tuple[list[str], list[str]]:
    """Look for mistakes in what a study names.

    Returns:
        What will fail, each with its path in params.yaml; and what cannot be checked without a network.
    """
    mistakes: list[str] = []
    unseen: list[str] = []
    for key, look in _looks(study):
        try:
            seen = look()
        except KdcacheError as error:
            mistakes.append(f"{key}: {error}")
            continue
        if not seen:
            unseen.append(key)
    return mistakes, unseen


def _looks(study: Study) -> Iterator[tuple[str, Callable[[], bool]]]:
    """A path in params.yaml, and a check of what it names. The check returns false if only the hub has that."""
    classes: dict[str, int] = {}
    for name, task in study.tasks.items():
        yield f"tasks.{name}", partial(_look_at_rows, name, task, classes)
    for group, models in (("teachers", study.teachers), ("students", study.students)):
        for name, model in models.items():
            tasks = [task for key, task in study.tasks.items() if study.applies(model, key)]
            yield f"{group}.{name}.checkpoint", partial(_look_at_checkpoint, model, tasks)
            if isinstance(model.class_weights, tuple):
                of_its_tasks = {key: classes.get(key) for key in study.tasks if study.applies(model, key)}
                yield (
                    f"{group}.{name}.class_weights",
                    partial(_look_at_weights, model.class_weights, of_its_tasks),
                )
    if study.tuning is not None and study.tuning.metric == "f1":
        yield "tuning.metric", partial(_look_at_f1, {key: classes.get(key) for key in study.tasks})
    for group, methods in (("regularizers", study.regularizers), ("distillers", study.distillers)):
        for name, method in methods.items():
            if method.function is not None:
                yield f"{group}.{name}.function", partial(_look_at_function, method)


def _look_at_rows(name: str, task: Task, classes: dict[str, int]) -> bool:
    """Check the rows, and note the number of classes."""
    if task.source.hub is not None and not os.environ.get(MIRROR):
        return False
    classes[name] = len(check_source(task))
    return True


def _look_at_weights(weights: Sequence[float], classes: Mapping[str, int | None]) -> bool:
    """Compare class weights with the number of each task's classes; None where that is unknown."""
    for task, number in classes.items():
        if number is not None and number != len(weights):
            raise KdcacheError(
                f"expected one for each of the {number} classes of task {task!r}, found {len(weights)}"
            )
    return None not in classes.values()


def _look_at_f1(classes: Mapping[str, int | None]) -> bool:
    """Refuse f1 for tasks that have not two classes; None where that is unknown."""
    for task, number in classes.items():
        if number not in (None, 2):
            raise KdcacheError(f"f1 is for two classes, task {task!r} has {number}; use macro_f1")
    return None not in classes.values()


def _look_at_checkpoint(model: Model, tasks: Sequence[Task]) -> bool:
    checkpoint = _on_this_machine(model)
    if checkpoint is None:
        return False
    _check_layers(model, checkpoint)
    _check_length(checkpoint, tasks)
    kinds = {task.modality for task in tasks}
    if (
        "image" in kinds
        and checkpoint.commit is not None
        and not (checkpoint.folder / IMAGE_SETTINGS).is_file()
    ):
        return False  # in the hub's cache, where another program may have downloaded only a part; a stage asks the hub
    for kind in kinds:
        _check_reads(checkpoint, kind)
    for task in tasks:
        check_faithful(checkpoint, model, task)
    return True


def _on_this_machine(model: Model) -> Checkpoint | None:
    """The checkpoint, if it is available without a network.

    Raises:
        ModelError: it is not available with a network either.
    """
    asks_nothing = Path(model.checkpoint).is_dir() or model.revision is None or os.environ.get(MIRROR)
    return find_checkpoint(model) if asks_nothing else find_local(model)


def _check_layers(model: Model, checkpoint: Checkpoint) -> None:
    depth = next((checkpoint.config[key] for key in DEPTHS if key in checkpoint.config), None)
    if model.layers is not None and isinstance(depth, int) and model.layers > depth:
        raise ModelError(
            f"{checkpoint.folder}: layers: {model.layers} asked for, but the checkpoint has {depth}"
        )


def _check_length(checkpoint: Checkpoint, tasks: Sequence[Task]) -> None:
    """Refuse a max_length beyond the model's positions. (Some models take fewer than these: training counts them.)"""
    key = "n_positions" if checkpoint.family == "gpt2" else "max_position_embeddings"
    positions = checkpoint.config.get(key)
    longest = max((task.max_length or 0 for task in tasks), default=0)
    if isinstance(positions, int) and 0 < positions < longest:
        raise ModelError(
            f"{checkpoint.folder}: the model has positions for {positions} tokens, a task of it has "
            f"max_length: {longest}; lower max_length or choose another checkpoint"
        )


def _check_reads(checkpoint: Checkpoint, kind: str) -> None:
    """Refuse a checkpoint without tokenizer or image size. The first stage checks the content of these files."""
    folder = checkpoint.folder
    if kind == "text":
        if not any((folder / name).is_file() for name in VOCABULARIES) and not any(folder.glob("*.model")):
            raise ModelError(
                f"{folder}: no tokenizer (tokenizer.json, vocab.txt, ...) for texts; put it beside config.json, or say "
                "which tasks the model is for (`tasks: [...]`)"
            )
        return
    settings = read_settings(folder / IMAGE_SETTINGS)
    if not (checkpoint.config.get("image_size") or settings.get("size") or settings.get("crop_size")):
        raise ModelError(
            f"{folder}: no image size (`size` in preprocessor_config.json or `image_size` in config.json); give it "
            "one, or say which tasks the model is for (`tasks: [...]`)"
        )


def _look_at_function(method: Regularizer) -> bool:
    """Import the method's function as a stage does: from the working directory, or as an installed module."""
    from kdcache.training.regularizers import make_loss  # imports torch

    sys.path.insert(0, str(Path.cwd()))
    try:
        make_loss(method, classes=2)
    except KdcacheError as error:
        raise KdcacheError(str(error).removeprefix("function: ")) from None
    finally:
        sys.path.remove(str(Path.cwd()))
    return True
