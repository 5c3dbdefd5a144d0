"""Language modelling: a step's batch, its loss, its learning rate, and the loss on held-out sequences."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from kdcache.modelling.predicting import autocast
from tools.pretraining.architectures import build_model
from tools.pretraining.errors import PretrainingError
from tools.pretraining.forward import prediction_loss
from tools.pretraining.loop import Loop, learning_rate, make_optimizer
from tools.pretraining.masking import (
    MASKING,
    VALIDATION,
    Ids,
    Predictions,
    batch_at,
    generator,
    hold_out,
    mask_tokens,
    sample_next_tokens,
)
from tools.pretraining.recipe import PretrainingRecipe
from tools.pretraining.sequences import Sequences
from tools.pretraining.state import Progress, load_state

log = logging.getLogger(__name__)


def decay_start(recipe: PretrainingRecipe, resumed_at: int) -> int:
    """The step at which the rate begins to fall, `decay_fraction` of the steps before the end.

    In a resumed run with a new target, the decay begins no earlier than where it resumes, from the rate it had there.
    """
    return max(recipe.steps - round(recipe.decay_fraction * recipe.steps), resumed_at)


class Trainer(Loop):
    """One run: model, optimizer, sequences and progress. All random numbers derive from the recipe's seed."""

    def __init__(
        self, recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast, sequences: Sequences
    ) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.training, self.validation = hold_out(sequences, recipe.validation_fraction, recipe.seed)
        if len(self.training) < recipe.batch_size:
            raise PretrainingError(
                f"the texts give {len(self.training)} training sequences of {recipe.sequence_length} tokens, "
                f"expected at least batch_size = {recipe.batch_size}: add text or make the batch smaller"
            )
        self.special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int64)
        model = build_model(recipe, tokenizer)
        optimizer = make_optimizer(model, recipe.learning_rate, recipe.weight_decay)
        progress = Progress(steps=recipe.steps, decay_start=decay_start(recipe, 0))
        super().__init__(model, optimizer, progress, "tokens", recipe.tokens_per_step)

    def resume(self, path: Path, identity: str) -> None:
        """Continue from a state file if there is one; a changed token target gets a new decay."""
        if not path.exists():
            return
        self.progress = load_state(path, self.model, self.optimizer, identity)
        if self.progress.steps != self.recipe.steps:
            self.progress.steps = self.recipe.steps
            self.progress.decay_start = decay_start(self.recipe, self.progress.step)
        log.info("resumed %s at step %d of %d", path, self.progress.step, self.recipe.steps)
        if self.progress.step > self.recipe.steps:
            log.warning("the run is past its target: it ends as it is, without a decay of the learning rate")

    def loss(self, step: int) -> Tensor:
        asked = self.ask(batch_at(self.training, self.recipe, step), MASKING, step)
        with autocast(self.recipe.precision, torch.device("cpu")):
            return prediction_loss(self.model, asked)

    def ask(self, batch: Ids, stream: int, counter: int) -> Predictions:
        """What to predict in a batch [B, S], drawn from a stream of random numbers at a counter."""
        rng = generator(self.recipe.seed, stream, counter)
        if self.recipe.family == "gpt2":
            return sample_next_tokens(batch, self.recipe, rng)
        return mask_tokens(batch, self.recipe, self.special, self.tokenizer.mask_token_id, rng)

    @torch.no_grad()
    def evaluate(self) -> float:
        """Loss on the held-out sequences, always at the same positions, in nats."""
        total, size = 0.0, self.recipe.batch_size
        for start in range(0, len(self.validation), size):
            batch = self.validation[start : start + size].astype(np.int64)
            total += prediction_loss(self.model, self.ask(batch, VALIDATION, start)).item() * len(batch)
        return total / len(self.validation)

    def learning_rate(self) -> float:
        at, recipe = self.progress, self.recipe
        return learning_rate(
            at.step,
            peak=recipe.learning_rate,
            decay_start=at.decay_start,
            steps=at.steps,
            warmup=round(recipe.warmup_tokens / recipe.tokens_per_step),
        )
