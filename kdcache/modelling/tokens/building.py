"""Load or initialise causal language models of any transformers family, and their tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.errors import ModelError
from kdcache.modelling.building import check_length, keep_layers, loading
from kdcache.modelling.preprocessors import Preprocessor, load_config, open_tokenizer
from kdcache.tasks.card import TaskCard


def load_tokenizer(checkpoint: Checkpoint, card: TaskCard) -> Preprocessor:
    """The tokenizer that belongs to a checkpoint of a causal language model.

    Raises:
        ModelError: the checkpoint is no causal language model, or has no tokenizer that ends documents.
    """
    folder = checkpoint.folder
    config = load_config(folder)
    kind = type(config)
    masked = kind in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if masked or kind not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise ModelError(
            f"{folder}: a {config.model_type} model cannot learn language modelling task {card.name!r}: it does not "
            "predict a token from those before it; say which tasks it is for (`tasks: [...]` beside its checkpoint)"
        )
    tokenizer = open_tokenizer(folder)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{folder}: the tokenizer has no eos token, which stands between documents; name one in its "
            "tokenizer_config.json"
        )
    outputs = getattr(config, "vocab_size", None)
    if outputs is not None and len(tokenizer) > outputs:
        raise ModelError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, config.json says vocab_size {outputs}; "
            "they do not belong together"
        )
    return Preprocessor("text", tokenizer=tokenizer)


def build_causal_model(checkpoint: Checkpoint, card: TaskCard, seed: int) -> torch.nn.Module:
    """A causal language model, on the CPU in float32; every weight is drawn from `seed` with `init: scratch`.

    Raises:
        ModelError: the checkpoint is too short for `layers` or the task's max_length, lacks weights, or cannot be
            loaded at all.
    """
    folder = checkpoint.folder
    config = load_config(folder)
    # Keys and values of earlier tokens: only generation needs them, and with them transformers does not keep the
    # documents of a sequence apart.
    config.use_cache = False
    if checkpoint.layers is not None:
        keep_layers(config, checkpoint.layers, folder)
    auto: Any = transformers.AutoModelForCausalLM
    with loading(folder, card):
        torch.manual_seed(seed)
        if checkpoint.init == "pretrained":
            network = _load_language_model(auto, folder, config)
        else:
            network = auto.from_config(config, dtype=torch.float32, trust_remote_code=False)
        check_length(network, card, folder)
    return network  # type: ignore[no-any-return]


def _load_language_model(auto: Any, folder: Path, config: Any) -> Any:
    network, report = auto.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder}: weights of the language model are missing: {', '.join(missing[:3])}; its config.json and its "
            "*.safetensors do not belong together"
        )
    return network
