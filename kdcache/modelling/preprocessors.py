"""How rows become a model's input: its tokenizer, or its image size, channels, mean and standard deviation."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import transformers

from kdcache.checkpoints.checkpoint import Checkpoint, read_settings
from kdcache.errors import ModelError
from kdcache.tasks.card import TaskCard

SEGMENTS = "token_type_ids"


@dataclass(frozen=True)
class Preprocessor:
    """How rows become a model's input: a tokenizer, or an image's size, channels, mean and standard deviation."""

    kind: Literal["text", "image"]
    tokenizer: Any = None
    size: int = 0
    channels: int = 3
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


def load_preprocessor(checkpoint: Checkpoint, card: TaskCard) -> Preprocessor:
    """The preprocessor that belongs to a checkpoint, for the task's modality.

    Raises:
        ModelError: the checkpoint is of the other modality, has no tokenizer or another model's, or has no image size.
    """
    folder = checkpoint.folder
    config = load_config(folder)
    _check_modality(config, card, folder)
    if card.modality == "image":
        return _image_preprocessor(config, folder)
    return Preprocessor("text", tokenizer=_load_tokenizer(config, folder))


def load_config(folder: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # every family checks its own settings in its own way
        raise ModelError(f"{folder / 'config.json'}: no model that transformers knows: {error}") from error


def _check_modality(config: Any, card: TaskCard, folder: Path) -> None:
    heads = {
        "text": transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        "image": transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    }
    if type(config) in heads[card.modality]:
        return
    others = [kind for kind, mapping in heads.items() if type(config) in mapping]
    fact = f"it classifies {others[0]}s" if others else "it has no classification head in transformers"
    raise ModelError(
        f"{folder}: a {config.model_type} model cannot learn {card.modality} task {card.name!r}: {fact}; "
        "say which tasks it is for (`tasks: [...]` beside its checkpoint)"
    )


def _load_tokenizer(config: Any, folder: Path) -> Any:
    tokenizer = open_tokenizer(folder)
    # Without files transformers makes a tokenizer out of nothing: all words would be unknown.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"{folder}: no tokenizer with a vocabulary (tokenizer.json, vocab.txt, ...); put it beside config.json"
        )
    if tokenizer.pad_token is None:
        # GPT-2 and Llama have none; padding is masked and lies to the right, so any existing token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(f"{folder}: the tokenizer has no pad, eos or unk token to pad batches with")
    tokens, embeddings = len(tokenizer), getattr(config, "vocab_size", None)
    if embeddings is not None and tokens > embeddings:
        raise ModelError(
            f"{folder}: the tokenizer has {tokens} tokens, config.json says vocab_size {embeddings}; "
            "they do not belong together"
        )
    tokenizer.padding_side = "right"
    _set_segments(config, tokenizer)
    return tokenizer


def open_tokenizer(folder: Path) -> Any:
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # its formats are many, and each is broken in its own way
        reason = _needs_sentencepiece(folder) or error
        raise ModelError(f"{folder}: its tokenizer cannot be loaded: {reason}") from error


def _needs_sentencepiece(folder: Path) -> str | None:
    found = [path.name for path in folder.glob("*.model")]
    if not found or (folder / "tokenizer.json").is_file():
        return None
    return (
        f"{found[0]} is SentencePiece's; `pip install sentencepiece protobuf`, with which transformers reads it, or "
        "put a tokenizer.json made from it into the folder"
    )


def _set_segments(config: Any, tokenizer: Any) -> None:
    """Mark the two texts of a pair (`token_type_ids`) exactly as in the model's pre-training.

    A tokenizer may not fit its model here: ALBERT's leaves the segments out, and BERT's gives them to a DistilBERT or a
    RoBERTa with one segment, which take none.
    """
    head: Any = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    given = SEGMENTS in tokenizer.model_input_names
    segments = getattr(config, "type_vocab_size", None)
    if segments is None:  # no table of them: XLNet compares them, most have none
        wanted = given and SEGMENTS in inspect.signature(head.forward).parameters
    else:
        wanted = segments > 1 and (given or any(tokenizer("a", "a", return_token_type_ids=True)[SEGMENTS]))
    if given != wanted:
        others = [name for name in tokenizer.model_input_names if name != SEGMENTS]
        tokenizer.model_input_names = [*others, SEGMENTS] if wanted else others
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # saved with a trained model


def _image_preprocessor(config: Any, folder: Path) -> Preprocessor:
    settings = read_settings(folder / "preprocessor_config.json")
    channels = getattr(config, "num_channels", 3)
    mean, std = settings.get("image_mean", [0.5] * channels), settings.get("image_std", [0.5] * channels)
    if not settings.get("do_normalize", True):
        mean, std = [0.0] * channels, [1.0] * channels
    size = _image_size(config, settings, folder)
    return Preprocessor("image", size=size, channels=channels, mean=mean, std=std)


def _image_size(config: Any, settings: dict[str, Any], folder: Path) -> int:
    """Height and width of the model's input: fixed by the model (ViT), else those of its pre-training.

    Models with stages of convolutions (`depths`) take any size, whatever their config says (ConvNeXt's: always 224).
    """
    own = getattr(config, "image_size", None)
    crop = settings.get("crop_size") if settings.get("do_center_crop") else None
    trained = [crop, settings.get("size")]
    candidates = [*trained, own] if hasattr(config, "depths") else [own, *trained]
    found = next((candidate for candidate in candidates if candidate), None)
    sides = list(found.values()) if isinstance(found, dict) else found
    sides = set(sides) if isinstance(sides, list | tuple) else {sides}
    size = sides.pop() if len(sides) == 1 else None
    if not isinstance(size, int):
        raise ModelError(
            f"{folder}: expected one image size (height = width) as `size` in preprocessor_config.json or "
            f"`image_size` in config.json, found {found}"
        )
    return size


@contextmanager
def quiet() -> Iterator[None]:
    output: Any = transformers.utils.logging
    verbosity, bars = output.get_verbosity(), output.is_progress_bar_enabled()
    output.set_verbosity_error()
    output.disable_progress_bar()
    try:
        yield
    finally:
        output.set_verbosity(verbosity)
        if bars:
            output.enable_progress_bar()
