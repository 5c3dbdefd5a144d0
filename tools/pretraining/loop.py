"""A training loop: AdamW, its schedule, one step after another, evaluation, and the state every few minutes."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tools.pretraining.errors import PretrainingError
from tools.pretraining.state import Progress, save_state

log = logging.getLogger(__name__)


def learning_rate(step: int, *, peak: float, warmup: int, decay_start: int, steps: int) -> float:
    """Linear to `peak` in `warmup` steps, constant, linear to 0 from `decay_start` to `steps`."""
    rising = min(1.0, (step + 1) / max(1, warmup))
    falling = min(1.0, (steps - step) / max(1, steps - decay_start))
    return peak * min(rising, falling)


def make_optimizer(model: nn.Module, peak: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves biases and layer norms alone."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), eps=1e-6, fused=True)


class Loop(ABC):
    """One run: a model, its optimizer and its progress. A subclass decides what a step learns from."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        progress: Progress,
        unit: str,
        units_per_step: int,
    ) -> None:
        self.model, self.optimizer, self.progress = model, optimizer, progress
        self.unit, self.units_per_step = unit, units_per_step  # what the log counts: "tokens"

    @abstractmethod
    def loss(self, step: int) -> Tensor:
        """The loss of a step, a scalar with its graph; a function of the weights, the seed and the step."""

    @abstractmethod
    def learning_rate(self) -> float:
        """The rate of the next step."""

    @abstractmethod
    def evaluate(self) -> float:
        """The loss on the held-out data."""

    def run(
        self,
        state: Path,
        identity: str,
        until: int | None = None,
        save_seconds: float = 120,
        log_seconds: float = 30,
        evaluate_steps: int = 2000,
    ) -> None:
        """Train to the step `until` (default: the target), writing the state every `save_seconds` and at the end.

        There is a log line every `log_seconds`. A run that continues after `until` gives the same numbers as one that
        did not stop there.
        """
        last = self.progress.steps if until is None else until
        begun = time.monotonic() - self.progress.seconds
        saving, reporting = _Timer(save_seconds), _Timer(log_seconds)
        losses: list[Tensor] = []
        while self.progress.step < last:
            losses.append(loss := self.step())
            self.progress.seconds = time.monotonic() - begun
            if seconds := reporting.due():
                self._report(losses, seconds)
                losses = []
            if self.progress.step % evaluate_steps == 0:
                self._validate()
            if loss.isfinite() and saving.due():
                save_state(state, self.model, self.optimizer, self.progress, identity)
        if losses:
            self._mean(
                losses
            )  # raises if the run has diverged, so that a good state is not overwritten by a bad one
        self._validate()
        save_state(state, self.model, self.optimizer, self.progress, identity)

    def step(self) -> Tensor:
        """One optimizer step; the loss, a scalar."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.progress.step)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.progress.step += 1
        return loss.detach()

    def _report(self, losses: list[Tensor], seconds: float) -> None:
        at, loss = self.progress, self._mean(losses)
        speed = len(losses) * self.units_per_step / seconds
        at.losses.append((at.step, round(loss, 4)))
        log.info(
            "%.2fM of %.1fM %s, %.0f %s/s, loss %.3f, lr %.2e, %.0f min left",
            at.step * self.units_per_step / 1e6,
            at.steps * self.units_per_step / 1e6,
            self.unit,
            speed,
            self.unit,
            loss,
            self.optimizer.param_groups[0]["lr"],
            (at.steps - at.step) * self.units_per_step / speed / 60,
        )

    def _mean(self, losses: list[Tensor]) -> float:
        loss = torch.stack(losses).mean().item()
        if not np.isfinite(loss):
            raise PretrainingError(
                f"the loss became {loss} at step {self.progress.step}: lower learning_rate"
            )
        return loss

    def _validate(self) -> None:
        loss = self.evaluate()
        self.progress.validation.append((self.progress.step, round(loss, 4)))
        log.info("step %d: held-out loss %.4f", self.progress.step, loss)


class _Timer:
    """Tells when a period of seconds has passed since it last did."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def due(self) -> float:
        """The seconds since the last time, once they are more than the period; else 0."""
        passed = time.monotonic() - self.last
        if passed <= self.seconds:
            return 0.0
        self.last += passed
        return passed
