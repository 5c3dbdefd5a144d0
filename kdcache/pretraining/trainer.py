"""The training loop: AdamW, its schedule, one step after another, validation, and the state every few minutes."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from kdcache.pretraining.architectures import build_model
from kdcache.pretraining.batches import (
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
from kdcache.pretraining.errors import PretrainingError
from kdcache.pretraining.forward import prediction_loss
from kdcache.pretraining.recipe import PretrainingRecipe
from kdcache.pretraining.sequences import Sequences
from kdcache.pretraining.state import Progress, load_state, save_state

log = logging.getLogger(__name__)


def learning_rate(step: int, *, peak: float, warmup: int, decay_start: int, steps: int) -> float:
    """Linear to `peak` in `warmup` steps, constant, linear to 0 from `decay_start` to `steps`."""
    rising = min(1.0, (step + 1) / max(1, warmup))
    falling = min(1.0, (steps - step) / max(1, steps - decay_start))
    return peak * min(rising, falling)


def decay_start(recipe: PretrainingRecipe, resumed_at: int) -> int:
    """The first step of the decay: `decay_fraction` before the end.

    A resumed run with a new target starts it no earlier than where it resumes, from the rate it had.
    """
    return max(recipe.steps - round(recipe.decay_fraction * recipe.steps), resumed_at)


def make_optimizer(model: nn.Module, recipe: PretrainingRecipe) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves biases and layer norms alone."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


class Trainer:
    """One run: model, optimizer, sequences, progress; all that is random derives from the recipe's seed."""

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
        self.model = build_model(recipe, tokenizer)
        self.optimizer = make_optimizer(self.model, recipe)
        self.progress = Progress(steps=recipe.steps, decay_start=decay_start(recipe, 0))

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

    def run(
        self,
        state: Path,
        identity: str,
        save_seconds: float = 120,
        log_seconds: float = 30,
        evaluate_steps: int = 2000,
    ) -> None:
        """Train to the target, writing the state every `save_seconds` and a log line every `log_seconds`."""
        begun = time.monotonic() - self.progress.seconds
        saving, reporting = _Timer(save_seconds), _Timer(log_seconds)
        losses: list[Tensor] = []
        while self.progress.step < self.recipe.steps:
            losses.append(loss := self.step())
            self.progress.seconds = time.monotonic() - begun
            if seconds := reporting.due():
                self._report(losses, seconds)
                losses = []
            if self.progress.step % evaluate_steps == 0:
                self._validate()
            if loss.isfinite() and saving.due():
                save_state(state, self.model, self.optimizer, self.progress, identity)
        self._validate()
        save_state(state, self.model, self.optimizer, self.progress, identity)

    def step(self) -> Tensor:
        """One optimizer step; the loss, a scalar."""
        at = self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        batch = batch_at(self.training, self.recipe, at.step)
        loss = prediction_loss(self.model, self.ask(batch, MASKING, at.step))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        at.step += 1
        return loss.detach()

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

    def _learning_rate(self) -> float:
        at, recipe = self.progress, self.recipe
        return learning_rate(
            at.step,
            peak=recipe.learning_rate,
            decay_start=at.decay_start,
            steps=at.steps,
            warmup=round(recipe.warmup_tokens / recipe.tokens_per_step),
        )

    def _report(self, losses: list[Tensor], seconds: float) -> None:
        at, loss = self.progress, torch.stack(losses).mean().item()
        speed = len(losses) * self.recipe.tokens_per_step / seconds
        at.losses.append((at.step, round(loss, 4)))
        log.info(
            "%.2fM of %.1fM tokens, %.0f tokens/s, loss %.3f, lr %.2e, %.0f min left",
            at.step * self.recipe.tokens_per_step / 1e6,
            self.recipe.tokens / 1e6,
            speed,
            loss,
            self.optimizer.param_groups[0]["lr"],
            (self.recipe.steps - at.step) * self.recipe.tokens_per_step / speed / 60,
        )
        if not np.isfinite(loss):
            raise PretrainingError(f"the loss became {loss} at step {at.step}: lower learning_rate")

    def _validate(self) -> None:
        loss = self.evaluate()
        self.progress.validation.append((self.progress.step, round(loss, 4)))
        log.info("step %d: held-out loss %.4f", self.progress.step, loss)


class _Timer:
    """Says when a number of seconds have passed since it last said so."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def due(self) -> float:
        """The seconds since the last time, once they are more than the period; else 0."""
        passed = time.monotonic() - self.last
        if passed <= self.seconds:
            return 0.0
        self.last += passed
        return passed
