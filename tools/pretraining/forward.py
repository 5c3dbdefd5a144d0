"""The exact fast path: logits and loss at the predicted positions only.

Two savings that change no number: vocabulary logits are computed only at the positions of the loss, and so are the
queries and the feed-forward block of the last layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.pretraining.masking import Predictions


def prediction_loss(model: nn.Module, asked: Predictions) -> Tensor:
    """Mean cross-entropy over the predicted positions, in nats."""
    return F.cross_entropy(predicted_logits(model, asked.inputs, asked.positions), asked.labels.flatten())


def predicted_logits(model: Any, inputs: Tensor, positions: Tensor) -> Tensor:
    """Vocabulary logits [B*P, V] at `positions` [B, P] of full, unpadded sequences `inputs` [B, S].

    They equal the model's own logits there, at less cost: at the other S - P positions the last layer computes
    only keys and values, since nothing else of them is used.
    """
    if model.config.model_type == "gpt2":
        return _gpt2_logits(model, inputs, positions)
    bert = model.config.model_type == "bert"
    encoder, head = (model.bert, model.cls) if bert else (model.roberta, model.lm_head)
    hidden = encoder.embeddings(inputs)
    *lower, last = encoder.encoder.layer
    for layer in lower:
        hidden = layer(hidden)
    logits: Tensor = head(_encoder_last_layer(last, hidden, positions)).flatten(0, 1)
    return logits


def _encoder_last_layer(layer: Any, hidden: Tensor, positions: Tensor) -> Tensor:
    """A BERT or RoBERTa layer [B, S, H] -> [B, P, H] at the chosen positions."""
    attention = layer.attention.self
    chosen = _pick(hidden, positions)
    query, key, value = (
        _split_heads(x, attention.num_attention_heads)
        for x in (attention.query(chosen), attention.key(hidden), attention.value(hidden))
    )
    context = _merge_heads(F.scaled_dot_product_attention(query, key, value))
    attended = layer.attention.output(context, chosen)
    output: Tensor = layer.output(layer.intermediate(attended), attended)
    return output


def _gpt2_logits(model: Any, inputs: Tensor, positions: Tensor) -> Tensor:
    body = model.transformer
    hidden = body.wte(inputs) + body.wpe(torch.arange(inputs.shape[1]))
    *lower, last = body.h
    for block in lower:
        hidden = block(hidden)
    last_hidden = body.ln_f(_gpt2_last_block(last, hidden, positions))
    logits: Tensor = model.lm_head(last_hidden).flatten(0, 1)
    return logits


def _gpt2_last_block(block: Any, hidden: Tensor, positions: Tensor) -> Tensor:
    """A GPT-2 block [B, S, H] -> [B, P, H] at the chosen positions, each seeing itself and its past."""
    width, heads, projection = hidden.shape[-1], block.attn.num_heads, block.attn.c_attn
    normed, chosen = block.ln_1(hidden), _pick(hidden, positions)
    query = _pick(normed, positions) @ projection.weight[:, :width] + projection.bias[:width]
    key, value = (normed @ projection.weight[:, width:] + projection.bias[width:]).split(width, dim=-1)
    visible = torch.arange(hidden.shape[1]) <= positions[:, None, :, None]
    context = F.scaled_dot_product_attention(
        _split_heads(query, heads), _split_heads(key, heads), _split_heads(value, heads), attn_mask=visible
    )
    chosen = chosen + block.attn.c_proj(_merge_heads(context))
    output: Tensor = chosen + block.mlp(block.ln_2(chosen))
    return output


def _pick(hidden: Tensor, positions: Tensor) -> Tensor:
    """[B, S, H] at positions [B, P] -> [B, P, H]."""
    rows = positions + torch.arange(len(positions))[:, None] * hidden.shape[1]
    return hidden.flatten(0, 1).index_select(0, rows.flatten()).view(*positions.shape, -1)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
