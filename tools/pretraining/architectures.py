"""The models of a recipe: BERT, RoBERTa and GPT-2 of transformers with a language modelling head, and their saving."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tools.pretraining.recipe import Family, PretrainingRecipe


def build_model(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
    """A freshly initialised model, seeded.

    It stays in eval mode, which turns dropout off (a small model on a few epochs underfits). The saved
    configuration keeps the usual 0.1 for fine-tuning.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return _MODELS[recipe.family](recipe, tokenizer).float().eval()


def save_checkpoint(model: Any, tokenizer: PreTrainedTokenizerFast, out_dir: Path) -> None:
    """Weights in fp16, half the bytes; the configuration says float32, for fine-tuning.

    The model itself keeps its weights in float32, since a run may go on after it was saved.
    """
    saved = copy.deepcopy(model).half()
    tokenizer.save_pretrained(out_dir)
    saved.save_pretrained(out_dir)
    saved.config.dtype = torch.float32
    saved.config.save_pretrained(out_dir)


def _encoder_sizes(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": recipe.vocab_size,
        "hidden_size": recipe.hidden,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "intermediate_size": recipe.intermediate or 4 * recipe.hidden,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _bert(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
    sizes = _encoder_sizes(recipe, tokenizer)
    return BertForMaskedLM(BertConfig(**sizes, max_position_embeddings=recipe.sequence_length))


def _roberta(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
    # RoBERTa's positions start after the padding id.
    positions = recipe.sequence_length + tokenizer.pad_token_id + 1
    return RobertaForMaskedLM(
        RobertaConfig(
            **_encoder_sizes(recipe, tokenizer),
            max_position_embeddings=positions,
            type_vocab_size=1,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _gpt2(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
    # The tanh approximation is GPT-2's own GELU; this spelling of it is one fused kernel, "gelu_new" is many.
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=recipe.vocab_size,
            n_embd=recipe.hidden,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            n_inner=recipe.intermediate,
            n_positions=recipe.sequence_length,
            activation_function="gelu_pytorch_tanh",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


_MODELS: dict[Family, Callable[[PretrainingRecipe, PreTrainedTokenizerFast], nn.Module]] = {
    "bert": _bert,
    "roberta": _roberta,
    "gpt2": _gpt2,
}
