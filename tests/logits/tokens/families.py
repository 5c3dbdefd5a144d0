"""Causal language models of several families, of two layers and random weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers

VOCABULARY = 50
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", GPT2),
    "llama": ("LlamaConfig", {**SIZES, "intermediate_size": 32, "num_key_value_heads": 2}),
    "mixtral": (
        "MixtralConfig",
        {**SIZES, "intermediate_size": 32, "num_key_value_heads": 2, "num_local_experts": 4},
    ),
    "opt": ("OPTConfig", {**SIZES, "ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 64}),
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "falcon": ("FalconConfig", SIZES),
    "mamba": ("MambaConfig", {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    # a convolution over three tokens in one layer, attention in the other
    "lfm2": (
        "Lfm2Config",
        {**SIZES, "intermediate_size": 32, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    ),
}  # fmt: skip
APART = ("gpt2", "llama", "mixtral")  # families that keep documents apart
MIXING = ("opt", "bloom", "falcon", "mamba", "lfm2")


def causal_model(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A model with weights drawn from one seed; in training mode, as transformers makes it."""
    name, sizes = CONFIGS[family]
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**tokens, **sizes, **changes})
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype)
