"""Load or initialise models of any transformers family, pretrained or from scratch, with a classification head.

What a model does not take from its checkpoint (the head, and every weight with `init: scratch`) is drawn from the
trial's seed alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from kdcache import checkpoints
from kdcache.errors import KdcacheError, ModelError
from kdcache.files import write_json
from kdcache.params import Model
from kdcache.tasks import TaskCard

SEGMENTS = "token_type_ids"


@dataclass(frozen=True)
class Preprocessor:
    """What turns rows into a model's input: a tokenizer, or an image's size, channels, mean and standard deviation."""

    kind: Literal["text", "image"]
    tokenizer: Any = None
    size: int = 0
    channels: int = 3
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


# ---- what turns rows into input ----


def load_preprocessor(model: Model, card: TaskCard) -> Preprocessor:
    """The preprocessor that belongs to a checkpoint, for the task's modality.

    Raises:
        ModelError: the checkpoint is of the other modality, has no tokenizer or not its own, or has no image size.
    """
    folder = checkpoints.find_checkpoint(model)
    config = _load_config(folder)
    _check_modality(config, card, folder)
    if card.modality == "image":
        return _image_preprocessor(config, folder)
    return Preprocessor("text", tokenizer=_load_tokenizer(config, folder))


def _load_config(folder: Path) -> Any:
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
    tokenizer = _open_tokenizer(folder)
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


def _open_tokenizer(folder: Path) -> Any:
    try:
        with _quiet():
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
    """Tell the first of two texts from the second (`token_type_ids`) exactly as the model was pre-trained.

    A tokenizer need not fit its model in this: ALBERT's leaves the segments out, BERT's gives them to a DistilBERT or
    a RoBERTa of one segment, which take none.
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
    settings = checkpoints.read_settings(folder / "preprocessor_config.json")
    channels = getattr(config, "num_channels", 3)
    mean, std = settings.get("image_mean", [0.5] * channels), settings.get("image_std", [0.5] * channels)
    if not settings.get("do_normalize", True):
        mean, std = [0.0] * channels, [1.0] * channels
    size = _image_size(config, settings, folder)
    return Preprocessor("image", size=size, channels=channels, mean=mean, std=std)


def _image_size(config: Any, settings: dict[str, Any], folder: Path) -> int:
    """Height and width of the model's input: fixed by the model (ViT), else what it was pre-trained on.

    Stages of convolutions (`depths`) take any size, whatever their config says: a ConvNeXt's always says 224.
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


# ---- the model ----


def build_model(model: Model, card: TaskCard, seed: int, preprocessor: Preprocessor) -> torch.nn.Module:
    """A model with K outputs, on the CPU in float32.

    The head, and every weight when `init: scratch`, is drawn from `seed` alone: the same seed gives the same start
    whatever the regularizer, and the same head pretrained and from scratch. A pretrained checkpoint's own head is
    kept only when it was made for this very task, that is for the same label names in the same order.

    Raises:
        ModelError: the checkpoint is too short for `layers` or the task's max_length, lacks encoder weights, or
            cannot be loaded at all.
    """
    folder = checkpoints.find_checkpoint(model)
    config = _load_config(folder)
    keep_head = config.id2label == _label_names(card)
    _fit_config(config, model, card, preprocessor, folder)
    auto: Any = (
        transformers.AutoModelForImageClassification
        if card.modality == "image"
        else transformers.AutoModelForSequenceClassification
    )
    with _loading(folder, card):
        torch.manual_seed(seed)
        network = auto.from_config(config, dtype=torch.float32, trust_remote_code=False)
        _check_length(network, card, folder)
        if model.init == "pretrained":
            network = _load_pretrained(auto, folder, config, drawn=network.state_dict(), keep_head=keep_head)
    return network  # type: ignore[no-any-return]


def _label_names(card: TaskCard) -> dict[int, str]:
    return dict(enumerate(card.label_names or ["score"]))


def _fit_config(config: Any, model: Model, card: TaskCard, preprocessor: Preprocessor, folder: Path) -> None:
    """Adapt a checkpoint's config to the task: outputs, padding, depth."""
    config.num_labels = card.classes
    config.id2label = _label_names(card)
    config.label2id = {name: index for index, name in config.id2label.items()}
    if preprocessor.kind == "text":
        config.use_cache = False  # keys and values of earlier tokens: only generation needs them
        _set_padding(config, preprocessor.tokenizer)
    if model.layers is not None:
        _keep_layers(config, model.layers, folder)


def _set_padding(config: Any, tokenizer: Any) -> None:
    """Choose the token that pads batches: the model's own where it has one.

    GPT-2 and its like read the class from the last token that is no padding; RoBERTa counts positions from the
    padding token's id, so a pretrained model's must stay.
    """
    own = getattr(config, "pad_token_id", None)
    if own is None or not 0 <= own < getattr(config, "vocab_size", own + 1):
        config.pad_token_id = tokenizer.pad_token_id


def _keep_layers(config: Any, layers: int, folder: Path) -> None:
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


def _check_length(network: Any, card: TaskCard, folder: Path) -> None:
    positions = _positions(network)
    if card.max_length is not None and positions is not None and card.max_length > positions:
        raise ModelError(
            f"{folder}: the model has positions for {positions} tokens, task {card.name!r} has "
            f"max_length: {card.max_length}; lower max_length or choose another checkpoint"
        )


def _positions(network: Any) -> int | None:
    """Tokens that a text model can take; None when it sets no limit."""
    limit = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    tables = [module for name, module in network.named_modules() if name.endswith(".position_embeddings")]
    padding = next((getattr(table, "padding_idx", None) for table in tables), None)
    return limit if padding is None else limit - int(padding) - 1  # RoBERTa's first token is at padding + 1


def _load_pretrained(
    auto: Any, folder: Path, config: Any, drawn: dict[str, torch.Tensor], keep_head: bool
) -> Any:
    """The checkpoint's weights, and those of `drawn` for all that it lacks and for the head."""
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
    encoder = sorted(key for key in lacking if _in_encoder(key, network) and ".pooler." not in key)
    if encoder:
        more = f" and {len(encoder) - 3} more" if len(encoder) > 3 else ""
        raise ModelError(
            f"{folder}: weights of the encoder itself are missing or of another shape: {', '.join(encoder[:3])}{more}; "
            "its config.json and its *.safetensors do not belong together"
        )
    for key, value in network.state_dict().items():
        if key in lacking or not (keep_head or _in_encoder(key, network)):
            value.copy_(drawn[key])
    return network


def _in_encoder(key: str, network: Any) -> bool:
    """Whether a weight belongs to the pre-trained model, not to the head that a task adds on top."""
    return key.startswith(f"{network.base_model_prefix}.")


@contextmanager
def _loading(folder: Path, card: TaskCard) -> Iterator[None]:
    """Whatever transformers raises becomes a ModelError; what it prints is left out.

    Its report of weights that are not in the checkpoint would alarm without need: a new head is never there, and
    missing encoder weights are an error here.
    """
    try:
        with _quiet():
            yield
    except KdcacheError:
        raise
    except Exception as error:
        raise ModelError(
            f"{folder}: cannot be loaded for {card.modality} task {card.name!r}: {error}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
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


def save_model(network: Any, preprocessor: Preprocessor, folder: Path) -> None:
    """Save weights (safetensors) and tokenizer or image settings so that the folder is a checkpoint of its own.

    Raises:
        ModelError: the files cannot be written (disk full, no permission).
    """
    try:
        with _quiet():
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
    """Some of those in Python (BERTweet's) are not saved as they were: the model would later read other tokens."""
    tokenizer.save_pretrained(folder)
    if tokenizer.is_fast:
        return
    sample = " ".join(list(tokenizer.get_vocab())[:1000])
    before, after = (
        reader(sample, verbose=False).input_ids for reader in (tokenizer, _open_tokenizer(folder))
    )
    if before != after:
        raise ModelError(
            f"{folder}: transformers does not save {type(tokenizer).__name__} as it was; use a checkpoint with "
            "tokenizer.json"
        )
