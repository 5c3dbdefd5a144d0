"""Load or initialise models of any transformers family, pretrained or from scratch, with a classification head.

Weights that do not come from the checkpoint (the head, and every weight with `init: scratch`) are drawn from the
trial's seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.errors import KdcacheError, ModelError
from kdcache.modelling.preprocessors import Preprocessor, load_config, open_tokenizer, quiet
from kdcache.system.files import write_json
from kdcache.tasks.card import TaskCard


def build_model(
    checkpoint: Checkpoint, card: TaskCard, seed: int, preprocessor: Preprocessor
) -> torch.nn.Module:
    """A model with K outputs, on the CPU in float32.

    The head, and every weight when `init: scratch`, is drawn from `seed` alone: the same seed gives the same start
    whatever the regularizer, and the same head pretrained and from scratch. A pretrained checkpoint's own head is
    kept only when it was made for this very task, that is for the same label names in the same order.

    Raises:
        ModelError: the checkpoint is too short for `layers` or the task's max_length, lacks encoder weights, or
            cannot be loaded at all.
    """
    folder = checkpoint.folder
    config = load_config(folder)
    keep_head = config.id2label == _label_names(card)
    _fit_config(config, checkpoint, card, preprocessor)
    auto: Any = (
        transformers.AutoModelForImageClassification
        if card.modality == "image"
        else transformers.AutoModelForSequenceClassification
    )
    with loading(folder, card):
        torch.manual_seed(seed)
        network = auto.from_config(config, dtype=torch.float32, trust_remote_code=False)
        check_length(network, card, folder)
        if checkpoint.init == "pretrained":
            network = _load_pretrained(auto, folder, config, drawn=network.state_dict(), keep_head=keep_head)
    return network  # type: ignore[no-any-return]


def _label_names(card: TaskCard) -> dict[int, str]:
    return dict(enumerate(card.label_names or ["score"]))


def _fit_config(config: Any, checkpoint: Checkpoint, card: TaskCard, preprocessor: Preprocessor) -> None:
    """Adapt a checkpoint's config to the task: outputs, padding, depth."""
    config.num_labels = card.classes
    config.id2label = _label_names(card)
    config.label2id = {name: index for index, name in config.id2label.items()}
    # What an old head was for says nothing of the new one; transformers' pipelines go by it.
    config.problem_type = "regression" if card.regression else "single_label_classification"
    if preprocessor.kind == "text":
        config.use_cache = False  # keys and values of earlier tokens: only generation needs them
        _set_padding(config, preprocessor.tokenizer)
    if checkpoint.layers is not None:
        keep_layers(config, checkpoint.layers, checkpoint.folder)


def _set_padding(config: Any, tokenizer: Any) -> None:
    """Choose the token that pads batches: the model's own where it has one.

    GPT-2 and similar models read the class from the last token that is not padding. RoBERTa counts positions from the
    padding token's id, so a pretrained model has to keep it.
    """
    own = getattr(config, "pad_token_id", None)
    if own is None or not 0 <= own < getattr(config, "vocab_size", own + 1):
        config.pad_token_id = tokenizer.pad_token_id


def keep_layers(config: Any, layers: int, folder: Path) -> None:
    depth = getattr(config, "num_hidden_layers", None)
    if depth is None or hasattr(config, "depths") or config.is_encoder_decoder:
        raise ModelError(
            f"{folder}: `layers` is not defined for model_type {config.model_type!r} (no plain stack of layers)"
        )
    if layers > depth:
        raise ModelError(f"{folder}: layers: {layers} asked for, but the checkpoint has {depth}")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:layers]


def check_length(network: Any, card: TaskCard, folder: Path) -> None:
    positions = _positions(network)
    if card.max_length is not None and positions is not None and card.max_length > positions:
        raise ModelError(
            f"{folder}: the model has positions for {positions} tokens, task {card.name!r} has "
            f"max_length: {card.max_length}; lower max_length or choose another checkpoint"
        )


def _positions(network: Any) -> int | None:
    """The number of tokens that a text model can take; None if it has no limit."""
    limit = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    tables = [module for name, module in network.named_modules() if name.endswith(".position_embeddings")]
    padding = next((getattr(table, "padding_idx", None) for table in tables), None)
    return limit if padding is None else limit - int(padding) - 1  # RoBERTa's first token is at padding + 1


def _load_pretrained(
    auto: Any, folder: Path, config: Any, drawn: dict[str, torch.Tensor], keep_head: bool
) -> Any:
    """The checkpoint's weights; the head, and weights that it lacks, are those of `drawn`."""
    network, report = auto.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    lacking = {*report["missing_keys"], *(item[0] for item in report["mismatched_keys"])}
    encoder = sorted(key for key in lacking if in_encoder(key, network) and ".pooler." not in key)
    if encoder:
        more = f" and {len(encoder) - 3} more" if len(encoder) > 3 else ""
        raise ModelError(
            f"{folder}: weights of the encoder itself are missing or of another shape: {', '.join(encoder[:3])}{more}; "
            "its config.json and its *.safetensors do not belong together"
        )
    for key, value in network.state_dict().items():
        if key in lacking or not (keep_head or in_encoder(key, network)):
            value.copy_(drawn[key])
    return network


def in_encoder(key: str, network: Any) -> bool:
    """Whether a weight belongs to the pre-trained model and not to the head of a task."""
    return key.startswith(f"{network.base_model_prefix}.")


@contextmanager
def loading(folder: Path, card: TaskCard) -> Iterator[None]:
    """Turn any exception of transformers into a ModelError, and hide what it prints.

    Its report of weights that are not in the checkpoint would alarm users without need: a new head is never there, and
    missing encoder weights are an error here.
    """
    try:
        with quiet():
            yield
    except KdcacheError:
        raise
    except Exception as error:
        raise ModelError(
            f"{folder}: cannot be loaded for {card.modality} task {card.name!r}: {error}"
        ) from error


def save_model(network: Any, preprocessor: Preprocessor, folder: Path) -> None:
    """Save weights (safetensors) and tokenizer or image settings so that the folder is a checkpoint of its own.

    Raises:
        ModelError: the files cannot be written (disk full, no permission).
    """
    try:
        with quiet():
            network.save_pretrained(folder)
            if preprocessor.kind == "text":
                _save_tokenizer(preprocessor.tokenizer, folder)
    except KdcacheError:
        raise
    except Exception as error:  # safetensors has an error of its own for a full disk
        raise ModelError(f"{folder}: the model cannot be written: {error}") from error
    if preprocessor.kind == "image":
        settings = {"size": preprocessor.size, "image_mean": preprocessor.mean, "image_std": preprocessor.std}
        write_json(folder / "preprocessor_config.json", settings)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer and check it: some in Python (BERTweet's) are saved wrongly, and would make other tokens."""
    tokenizer.save_pretrained(folder)
    if tokenizer.is_fast:
        return
    sample = " ".join(list(tokenizer.get_vocab())[:1000])
    before, after = (
        reader(sample, verbose=False).input_ids for reader in (tokenizer, open_tokenizer(folder))
    )
    if before != after:
        raise ModelError(
            f"{folder}: transformers does not save {type(tokenizer).__name__} as it was; use a checkpoint with "
            "tokenizer.json"
        )
