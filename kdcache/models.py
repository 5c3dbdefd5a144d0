"""Load or initialise models of any transformers family, pretrained or from scratch, with a classification head."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from kdcache import checkpoints
from kdcache.errors import ModelError
from kdcache.params import Model
from kdcache.tasks import TaskCard


@dataclass(frozen=True)
class Preprocessor:
    """What turns rows into a model's input: a tokenizer, or an image's size, channels, mean and standard deviation."""

    kind: Literal["text", "image"]
    tokenizer: Any = None
    size: int = 0
    channels: int = 3
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


def load_preprocessor(model: Model, card: TaskCard) -> Preprocessor:
    """The preprocessor that belongs to a checkpoint, for the task's modality.

    Raises:
        ModelError: the checkpoint has no tokenizer, or is an image model without a size.
    """
    folder = checkpoints.find_checkpoint(model)
    if card.modality == "image":
        return _image_preprocessor(folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder}: no tokenizer can be loaded for text task {card.name!r}: {error}"
        ) from None
    if tokenizer.pad_token is None:
        # GPT-2 and Llama have none; padding is masked and lies to the right, so any existing token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(f"{folder}: the tokenizer has no pad, eos or unk token to pad batches with")
    tokenizer.padding_side = "right"
    return Preprocessor("text", tokenizer=tokenizer)


def _image_preprocessor(folder: Path) -> Preprocessor:
    config = checkpoints.read_config(folder)
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    size = settings.get("size", config.get("image_size"))
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    if not isinstance(size, int):
        raise ModelError(
            f"{folder}: no image size in preprocessor_config.json (size) or config.json (image_size)"
        )
    channels = config.get("num_channels", 3)
    mean = settings.get("image_mean", [0.5] * channels)
    std = settings.get("image_std", [0.5] * channels)
    return Preprocessor("image", size=size, channels=channels, mean=mean, std=std)


def build_model(model: Model, card: TaskCard, seed: int, preprocessor: Preprocessor) -> torch.nn.Module:
    """A model with a fresh head of K outputs, on the CPU in float32.

    The head, and every weight when `init: scratch`, is drawn from `seed` alone: the same seed gives the same start
    whatever the regularizer.

    Raises:
        ModelError: the checkpoint is of the wrong modality, too short for `layers`, or lacks encoder weights.
    """
    folder = checkpoints.find_checkpoint(model)
    config = _task_config(model, folder, card, preprocessor)
    auto: Any = (
        transformers.AutoModelForImageClassification
        if card.modality == "image"
        else transformers.AutoModelForSequenceClassification
    )
    torch.manual_seed(seed)
    try:
        if model.init == "scratch":
            network = auto.from_config(config, trust_remote_code=False)
        else:
            network = _load_pretrained(auto, folder, config)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{folder}: cannot be loaded for {card.modality} task {card.name!r}: {error}"
        ) from None
    return network.float()  # type: ignore[no-any-return]


def _task_config(model: Model, folder: Path, card: TaskCard, preprocessor: Preprocessor) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    names = card.label_names or ["score"]
    config.num_labels = card.classes
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    if preprocessor.kind == "text":
        config.pad_token_id = preprocessor.tokenizer.pad_token_id
    if model.layers is not None:
        _keep_layers(config, model.layers, folder)
    return config


def _keep_layers(config: Any, layers: int, folder: Path) -> None:
    depth = getattr(config, "num_hidden_layers", None)
    if depth is None:
        raise ModelError(
            f"{folder}: `layers` is not defined for model_type {config.model_type!r} (no plain stack)"
        )
    if layers > depth:
        raise ModelError(f"{folder}: layers: {layers} asked for, but the checkpoint has {depth}")
    config.num_hidden_layers = layers


def _load_pretrained(auto: Any, folder: Path, config: Any) -> Any:
    network, report = auto.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    keys = [*report["missing_keys"], *(item[0] for item in report["mismatched_keys"])]
    lacking = sorted(key for key in keys if _in_encoder(key, network.base_model_prefix))
    if lacking:
        raise ModelError(
            f"{folder}: the checkpoint lacks weights of the encoder itself: {', '.join(lacking[:5])}; "
            "its config.json and its *.safetensors do not belong together"
        )
    return network


def _in_encoder(key: str, prefix: str) -> bool:
    """Whether a weight belongs to the pre-trained encoder, not to what a task adds on top (head and pooler)."""
    return key.startswith(f"{prefix}.") and ".pooler." not in key


def save_model(network: Any, preprocessor: Preprocessor, folder: Path) -> None:
    """Save weights (safetensors) and tokenizer or image settings so that the folder is a checkpoint of its own."""
    network.save_pretrained(folder)
    if preprocessor.kind == "text":
        preprocessor.tokenizer.save_pretrained(folder)
        return
    settings = {"size": preprocessor.size, "image_mean": preprocessor.mean, "image_std": preprocessor.std}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
