"""Refuse a pretrained checkpoint that kdcache would read, or train, in another way than it was made for.

The code that reads images and adds adapters is part of every trial's identity. So this stands outside it: what that
code would get wrong is refused before anything is trained, by `kdcache check` and by every plan.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Literal, Protocol

from kdcache.checkpoints.checkpoint import Checkpoint, read_settings
from kdcache.checkpoints.fingerprints import tensor_names
from kdcache.errors import ModelError
from kdcache.study import Model
from kdcache.system.quoting import quoted

IMAGE_SETTINGS = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # newer transformers write the same settings here, as `image_processor`
# Steps of transformers' image processors that kdcache always takes, or never does. A missing key changes nothing.
STEPS = {"do_rescale": True, "do_flip_channel_order": False, "rescale_offset": False, "include_top": False}
NUMBERS = {"image_mean": "numbers", "image_std": "numbers above 0"}
COMPUTED = "kdcache computes (pixels / 255 - image_mean) / image_std, of images in RGB or grey"

# Families whose classifier reads the pooler of the pre-trained model. In others it is a part of the head (DeBERTa),
# which is trained, or there is none (RoBERTa, ViT), or it is not used (BigBird).
POOLED = frozenset(
    {
        "albert",
        "bert",
        "canine",
        "ernie",
        "fnet",
        "gte",
        "layoutlm",
        "luke",
        "markuplm",
        "megatron-bert",
        "mobilebert",
        "nomic_bert",
        "rembert",
        "roc_bert",
        "squeezebert",
        "tapas",
    }
)


class Rows(Protocol):
    """What counts of a task: of the declared one, or of a prepared one's card."""

    @property
    def modality(self) -> Literal["text", "image"]: ...

    @property
    def language_modelling(self) -> bool: ...


def check_faithful(checkpoint: Checkpoint, model: Model, task: Rows) -> None:
    """Refuse to start a model on a task from a checkpoint that would not be used as it was made.

    From scratch there is nothing that the weights were made for. Only a mean or std that cannot be used is refused.

    Args:
        checkpoint: the model's checkpoint. Of its weights only the names are read.

    Raises:
        ModelError: its images were not normalised as kdcache would do it, or it is unknown how they were; its mean or
            std is no list of numbers; or `lora` would leave the layer through which the class is read as it was drawn.
    """
    if task.modality == "image":
        check = _check_images if checkpoint.init == "pretrained" else _check_images_from_scratch
        check(checkpoint.folder)
    elif checkpoint.init == "pretrained" and model.lora is not None and not task.language_modelling:
        _check_pooler(checkpoint)


def _check_images(folder: Path) -> None:
    path = folder / IMAGE_SETTINGS
    settings = read_settings(path)
    for key, expected in STEPS.items():
        if settings.get(key, expected) is not expected:
            raise _other_step(path, key, str(expected).lower(), settings[key])
    factor = settings.get("rescale_factor", 1 / 255)
    if not (_is_number(factor) and math.isclose(factor, 1 / 255, rel_tol=1e-6)):  # some files round it
        raise _other_step(path, "rescale_factor", "1/255", factor)
    normalises = settings.get("do_normalize", True)
    if not isinstance(normalises, bool):
        raise _other_step(path, "do_normalize", "true or false", normalises)
    for key in NUMBERS if normalises else ():
        if key not in settings:
            raise _missing_numbers(path, key)
        advice = "write do_normalize: false if the model was pre-trained without"
        _check_numbers(path, key, settings[key], advice)


def _check_images_from_scratch(folder: Path) -> None:
    """Refuse a mean or a std that is given and is not a list of numbers. A missing one is 0.5."""
    path = folder / IMAGE_SETTINGS
    settings = read_settings(path)
    for key in NUMBERS if settings.get("do_normalize", True) else ():
        if key in settings:
            _check_numbers(path, key, settings[key], "leave it out, which means 0.5")


def _missing_numbers(path: Path, key: str) -> ModelError:
    return ModelError(
        f"{path}: {key}: expected a list of {NUMBERS[key]}, one for each channel, found "
        f"{'no such key' if path.is_file() else 'no such file'}; {_where_from(path.parent)}, or say which tasks "
        "the model is for (`tasks: [...]`)"
    )


def _check_numbers(path: Path, key: str, values: object, advice: str) -> None:
    """Refuse a mean or a std that is not a list of numbers."""
    lowest = 0 if key == "image_std" else -math.inf
    if not (isinstance(values, list) and values and all(_is_number(it) and it > lowest for it in values)):
        raise ModelError(
            f"{path}: {key}: expected a list of {NUMBERS[key]}, one for each channel, found {quoted(values)}; "
            f"correct it, or {advice}. {COMPUTED}"
        )


def _where_from(folder: Path) -> str:
    if "image_processor" in read_settings(folder / PROCESSOR):
        return (
            f"{PROCESSOR} has an `image_processor`, which kdcache does not read: save it as {IMAGE_SETTINGS}"
        )
    return (
        "a pretrained model takes images that are normalised as in its pre-training: save its image processor in this "
        'folder (`save_pretrained`), or write the mean and std there (or "do_normalize": false)'
    )


def _other_step(path: Path, key: str, expected: str, found: object) -> ModelError:
    return ModelError(
        f"{path}: {key}: expected {expected}, found {quoted(found)}. {COMPUTED}: write the settings in this form if "
        "there are such, or choose another checkpoint"
    )


def _is_number(value: Any) -> bool:
    """Whether it is a finite number. (JSON as Python reads it has NaN and Infinity; true is no number.)"""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _check_pooler(checkpoint: Checkpoint) -> None:
    """Refuse weights without a pooler for a family that reads the class through it (a MobileBERT may do without)."""
    if checkpoint.family not in POOLED or checkpoint.config.get("classifier_activation") is False:
        return
    if any("pooler" in name.split(".") for name in _weights(checkpoint.folder)):
        return
    raise ModelError(
        f"{checkpoint.folder}: lora: expected weights of the pooler, through which a {checkpoint.family} model reads "
        "the class, found none in *.safetensors. It would be drawn at random, and stay so: with lora only adapters "
        "and the head are trained. Leave lora out, or choose a checkpoint with a pooler or of another family"
    )


def _weights(folder: Path) -> set[str]:
    """The names of a checkpoint's tensors. Those of shards that are not on this machine are in the index."""
    index = read_settings(folder / "model.safetensors.index.json").get("weight_map")
    here = (tensor_names(file) for file in folder.glob("*.safetensors"))
    return set(index if isinstance(index, dict) else ()).union(*here)
