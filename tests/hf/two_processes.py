"""A script for two processes: one step of `KDTrainer` on either kind of cache; the main process keeps the weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from kdcache.hf import KDTrainer
from tests.hf.parts import arguments, classifier, first_labelled, language_model, sequences, texts

folder = Path(sys.argv[1])
small = arguments(folder / "run", per_device_train_batch_size=2, gradient_accumulation_steps=2)
trainers = {
    "classes": KDTrainer(
        classifier(0), small, train_dataset=texts(), cache=folder / "logits", columns=["text"], label="label",
        alpha=0.7, temperature=2,
    ),
    "tokens": KDTrainer(language_model(0), small, train_dataset=sequences(), cache=folder / "tokens", alpha=0.7),
    "first labelled": KDTrainer(
        language_model(0), small, first_labelled, sequences(), cache=folder / "tokens", alpha=0.7
    ),
}  # fmt: skip
for name, trainer in trainers.items():
    trainer.train()
    if trainer.is_world_process_zero():
        torch.save(trainer.model.state_dict(), folder / f"{name}.pt")
