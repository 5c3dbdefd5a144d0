"""Save a trained model as a checkpoint folder. A student's folder has a card, and works in transformers' pipelines."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from kdcache.modelling.building import save_model
from kdcache.modelling.inputs import Inputs
from kdcache.system.files import read_json, remove_folder, sync_folder, write_atomically, write_json
from kdcache.trials.layout import CARD, STUDENT
from kdcache.trials.model_card import model_card
from kdcache.trials.result import TrialResult
from kdcache.trials.saved_models import model_files
from kdcache.trials.scores import trial_scores

# What `kdcache.modelling.encoding` does with an image, as settings of transformers (`resample` 2 is bilinear). This
# processor does nothing more, for any model. A model family's own processor may crop images.
IMAGES = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
}


def save_checkpoint(model: Any, inputs: Inputs, folder: Path) -> None:
    """Write weights, config with the label names, and tokenizer or image settings, and flush them to the device.

    Raises:
        ModelError: the files cannot be written.
    """
    forget_old_head(model.config)
    save_model(model, inputs.preprocessor, folder)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def forget_old_head(config: Any) -> None:
    """Remove the settings of an old head from a config: in transformers' pipelines they can replace the softmax."""
    vars(config).pop("function_to_apply", None)


def save_student(model: Any, inputs: Inputs, trial: Path, folder: Path, result: TrialResult) -> None:
    """Save a trial's trained model: a checkpoint, its card and student.json. `folder` appears whole or not at all.

    Args:
        trial: the folder with the trial's logits, from which its scores are computed.
        folder: the model's folder; an existing one is replaced.

    Raises:
        ModelError: the files cannot be written.
    """
    new = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_checkpoint(model, inputs, new)
    _say_how_rows_are_read(inputs, new)
    card = model_card(result, inputs.task, trial_scores(trial, inputs.task), new)
    write_atomically(new / CARD, card.encode())
    names = {name: getattr(result, name) for name in ("identity", "task", "student", "regularizer", "seed")}
    write_json(new / STUDENT, {**names, "files": model_files(new, STUDENT)})
    remove_folder(folder)
    os.rename(new, folder)
    sync_folder(folder.parent)


def _say_how_rows_are_read(inputs: Inputs, folder: Path) -> None:
    """Write settings by which a pipeline gives the model the trial's inputs: the same text lengths and pixels."""
    if inputs.card.modality == "image":
        path, size = folder / "preprocessor_config.json", inputs.preprocessor.size
        write_json(path, {**read_json(path), **IMAGES, "size": {"height": size, "width": size}})
    else:
        path = folder / "tokenizer_config.json"
        write_json(path, {**read_json(path), "model_max_length": inputs.card.max_length})
    if (
        inputs.card.language_modelling
    ):  # it was trained without keys and values of earlier tokens; generation needs them
        path = folder / "config.json"
        write_json(path, {**read_json(path), "use_cache": True})
