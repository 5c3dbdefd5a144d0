"""ONE training loop, for teachers and students alike, on whatever Accelerate finds: CPU, one GPU or several processes.

AdamW with linear warm-up and decay, clipped gradients, batches of similar length padded to their longest row, loss
read once an epoch. The last epoch's weights are the result: validation data are never looked at while training.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from kdcache.errors import TrialError
from kdcache.modelling.batches import Batch, Batcher, Rows, device_rows, epoch_batches, pad_token, sent
from kdcache.modelling.encoding import EncodedSplit
from kdcache.modelling.predicting import autocast, in_bfloat16
from kdcache.study import Model
from kdcache.system.devices import device_name, peak_memory_mb, reset_peak_memory

log = logging.getLogger(__name__)
TrainingLoss = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]


@dataclass(frozen=True)
class Training:
    """What a run of the loop was: optimizer steps, mean loss of each epoch, wall-clock seconds, peak MiB, device.

    `precision` is what was computed in: "bfloat16" (autocast) or "float32", also when `auto` was asked for.
    """

    steps: int
    losses: list[float]
    seconds: float
    peak_memory_mb: float
    device: str
    precision: str


def fine_tune(
    model: torch.nn.Module,
    split: EncodedSplit,
    loss: TrainingLoss,
    params: Model,
    seed: int,
    soft_logits: npt.NDArray[np.float32] | None = None,
) -> tuple[torch.nn.Module, Training]:
    """Train the model on the split and return it with the run's figures.

    Args:
        split: of images it may have V views; epoch e is then trained on view e mod V. Its last rows may have no labels:
            an epoch has every row once, so there are more steps for them.
        loss: the mean over a batch, from logits [B, K], labels [B], soft logits [B, K] and the progress of training,
            0 at the first step and 1 at the last. Rows without a label come last in a batch: labels are then fewer.
        soft_logits: [N, K] cached raw logits in the split's row order, for distillers; [N, V, K] of a split with views.

    Raises:
        TrialError: the loss became infinite or NaN.
    """
    return run(lambda accelerator: _Loop(accelerator, model, split, loss, params, soft_logits), params, seed)


def run(make: Callable[[Accelerator], _Loop], params: Model, seed: int) -> tuple[torch.nn.Module, Training]:
    """Run a loop for all epochs; what `fine_tune` returns and raises.

    Args:
        make: the loop, on the processes and the device that are handed to it.
    """
    accelerator = _accelerator()
    device = accelerator.device
    reset_peak_memory(device)
    start = time.perf_counter()
    loop = make(accelerator)
    torch.manual_seed(seed + accelerator.process_index)  # dropout: the same for every regularizer
    loop.network.train()
    epochs = tqdm(range(params.epochs), desc="epochs", disable=not sys.stderr.isatty(), leave=False)
    with _attention(device):
        losses = [loop.epoch(seed, epoch) for epoch in epochs]
    trained = accelerator.unwrap_model(loop.network)
    if device.type != "cpu":
        accelerator.free_memory()
    seconds = time.perf_counter() - start
    precision = "bfloat16" if in_bfloat16(params.precision, device) else "float32"
    return trained, Training(
        loop.steps, losses, seconds, peak_memory_mb(device), device_name(device), precision
    )


def _accelerator() -> Accelerator:
    """Processes and device as the user configured them; precision and accumulation, which change results, never."""
    plugin = GradientAccumulationPlugin(num_steps=1)
    return Accelerator(mixed_precision="no", gradient_accumulation_plugin=plugin)


class _Loop:
    """One run of the loop: the model with its optimizer and schedule, and the rows on the device."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        split: EncodedSplit,
        loss: TrainingLoss,
        params: Model,
        soft_logits: npt.NDArray[np.float32] | None,
    ) -> None:
        device = accelerator.device
        self.loss = loss
        self.batches = Batcher(split, pad_token(model), device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.soft_logits = device_rows(_by_view(soft_logits), device)
        self._start(accelerator, model, params, len(split))

    def _start(self, accelerator: Accelerator, model: torch.nn.Module, params: Model, rows: int) -> None:
        """The model with its optimizer and schedule, for so many rows an epoch."""
        self.accelerator, self.params = accelerator, params
        self.steps = params.epochs * -(-rows // params.batch_size)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer, self.schedule = _optimizer(self.trainable, params, self.steps)
        self.network, self.optimizer = accelerator.prepare(model, optimizer)

    def epoch(self, seed: int, epoch: int) -> float:
        """Every row once; the mean loss over the rows, of all processes together."""
        self.batches.view = epoch % self.batches.views
        total = torch.zeros((), device=self.accelerator.device)
        whole = epoch_batches(self.batches.lengths, self.params.batch_size, seed, epoch)
        shares = [_share(rows, self.accelerator) for rows in whole]
        batches = sent([self._labelled_first(mine) for mine, _ in shares], self.accelerator.device)
        for rows, batch, (_, weight) in zip(whole, batches, shares, strict=True):
            total += self.step(batch, weight) * len(rows)
        mean = float(self.accelerator.reduce(total, "mean")) / len(self.batches)
        if not math.isfinite(mean):
            raise TrialError(
                f"the training loss is {mean} in epoch {epoch + 1}; lower learning_rate, or alpha of the regularizer"
            )
        log.debug("epoch %d: loss %.4f", epoch + 1, mean)
        return mean

    def _labelled_first(self, rows: Rows) -> Rows:
        """The rows that have no label last, as the loss wants them."""
        return rows[np.argsort(rows >= len(self.labels), kind="stable")]

    def step(self, batch: Batch, weight: float) -> Tensor:
        """One optimizer step on this process's share of a global batch, and its loss, on the device."""
        progress = self.schedule.last_epoch / max(1, self.steps - 1)
        loss = self.update(batch, weight, progress)
        self.schedule.step()
        return loss

    def update(self, batch: Batch, weight: float, progress: float) -> Tensor:
        """What a device does in a step. No value is read here: that would wait for a GPU."""
        loss = self.loss_of(batch, progress) * weight
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.trainable, self.params.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def loss_of(self, batch: Batch, progress: float) -> Tensor:
        """The mean loss of this process's rows of a batch."""
        labelled = int((batch.rows < len(self.labels)).sum())
        labels = self.labels[batch.index[:labelled]]
        soft_logits = self.soft_logits[self.batches.view][batch] if self.soft_logits else None
        with autocast(self.params.precision, self.accelerator.device):
            logits = self.network(**self.batches(batch)).logits
        return self.loss(logits.float(), labels, soft_logits, progress)


def _by_view(soft_logits: npt.NDArray[np.float32] | None) -> list[Tensor]:
    """[N, K] of each view, from [N, K] of the only one or [N, V, K]."""
    if soft_logits is None:
        return []
    values = torch.from_numpy(soft_logits)
    return [values] if values.ndim == 2 else list(values.unbind(1))


def _share(rows: Rows, accelerator: Accelerator) -> tuple[Rows, float]:
    """This process's rows of a global batch, and the weight that makes the mean over processes the batch's mean."""
    world = accelerator.num_processes
    mine = rows[accelerator.process_index :: world]
    if len(mine) == 0:
        return rows[:1], 0.0
    return mine, len(mine) * world / len(rows)


def _optimizer(trainable: list[torch.nn.Parameter], params: Model, steps: int) -> tuple[Any, Any]:
    """AdamW without decay on biases and norms, and a linear warm-up to the peak rate followed by a linear decay."""
    decay = [parameter for parameter in trainable if parameter.ndim > 1]
    plain = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups = [{"params": decay, "weight_decay": params.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=params.learning_rate, fused=True)
    warmup = round(params.warmup * steps)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (steps - step) / max(1, steps - warmup)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def _attention(device: torch.device) -> Any:
    """Attention as matrix products when training on a CPU: the backward pass of its fused kernel is slow in bfloat16.

    (A ViT of 17 tokens and heads of 16: 54 ms a step, 15 as matrix products. Models with dropout in their attention
    never use the fused kernel there.)
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
