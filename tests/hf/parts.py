"""Tiny students, rows and arguments for trainers, in one process or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    TrainingArguments,
)

from kdcache import Full, LogitCache, TokenCache, write_logits, write_token_logits

CLASSES, VOCABULARY = 3, 20


def classifier(seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=VOCABULARY, num_labels=CLASSES, **sizes, **still)
    return BertForSequenceClassification(config)


def language_model(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=16,
        n_embd=8,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        **still,
    )
    return GPT2LMHeadModel(config)


def texts(count: int = 8) -> Dataset:
    """Rows with a text, which a cache's hashes cover, and its encoding for a model."""
    rows = [
        {"text": f"text {i}", "input_ids": [(i * 7 + j) % VOCABULARY for j in range(4)], "label": i % CLASSES}
        for i in range(count)
    ]
    return Dataset.from_list(rows)


def sequences(count: int = 8) -> list[dict[str, list[int]]]:
    """Rows of 3 to 9 tokens."""
    return [{"input_ids": [(i * 5 + j * j) % VOCABULARY for j in range(3 + i % 7)]} for i in range(count)]


def all_labelled(rows: list[Any]) -> dict[str, torch.Tensor]:
    """A collator that labels every token, the first too, and what is padded."""
    length = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([[*row["input_ids"], *[1] * (length - len(row["input_ids"]))] for row in rows])
    mask = torch.tensor([[int(at < len(row["input_ids"])) for at in range(length)] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.clone()}


def first_labelled(rows: list[Any]) -> dict[str, torch.Tensor]:
    """A collator that labels every token, the first too, and not what is padded."""
    batch = all_labelled(rows)
    return {**batch, "labels": batch["labels"].masked_fill(batch["attention_mask"] == 0, -100)}


def logit_cache(path: Path) -> LogitCache:
    return write_logits(
        classifier(1),
        texts(),
        path,
        collate=lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])},
        columns=["text"],
        label="label",
    )


def token_cache(path: Path, estimator: Any = None) -> TokenCache:
    return write_token_logits(language_model(1), sequences(), path, estimator or Full())


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """Arguments for plain gradient descent, so that the weights show the gradients."""
    plain = {
        "optim": "sgd",
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": 8,
        "max_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(str(folder), **{**plain, **changes})
