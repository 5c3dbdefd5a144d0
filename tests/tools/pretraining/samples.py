"""Texts, recipes and trainers of toy size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from tools import pretrain as stage
from tools.pretraining import Family, PretrainingRecipe, Trainer, pack_sequences

FAMILIES: list[Family] = ["bert", "roberta", "gpt2"]
WORDS = ["the", "quick", "brown", "fox", "over", "a", "lazy", "dog", "and", "then", "Many", "Quiet", "roads"]
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, 12)) + f", {i}." for i in range(300)]
SIZES: dict[str, Any] = {
    "layers": 2,
    "hidden": 32,
    "heads": 2,
    "vocab_size": 300,
    "sequence_length": 16,
    "short_length": 8,
    "short_tokens": 128,  # two steps of short pieces, then full sequences
    "batch_size": 4,
    "learning_rate": 2e-3,
    "warmup_tokens": 128,
}

Tokenizers = dict[str, PreTrainedTokenizerFast]


def recipe(family: Family, steps: int = 6, **changes: Any) -> PretrainingRecipe:
    return PretrainingRecipe(family=family, **{**SIZES, "tokens": steps * 64, **changes})


def make_trainer(family: Family, tokenizers: Tokenizers, **changes: Any) -> Trainer:
    sequences = pack_sequences(family, tokenizers[family], TEXTS, 16)
    return Trainer(recipe(family, **changes), tokenizers[family], sequences)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in trainer.model.named_parameters()}


def run(root: Path, name: str, *options: str) -> None:
    """Run the command on the corpus and the recipes in a folder; later options win."""
    stage.main(
        [
            name,
            "--texts",
            str(root / "corpus.parquet"),
            "--recipes",
            str(root / "recipes.yaml"),
            "--work-dir",
            str(root / "work" / name),
            "--out",
            str(root / name),
            *options,
        ]
    )
