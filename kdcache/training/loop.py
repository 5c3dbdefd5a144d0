"""The one training loop, for teachers and students, on what Accelerate finds: a CPU, a GPU or several processes.

AdamW with linear warm-up and decay; clipped gradients; batches of rows of similar length, padded to the longest; the
loss is read once an epoch. The result is the weights after the last epoch: training never reads validation data.
"""

from __future__ import annotations

import math
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
from torch.nn.utils import clip_grad_norm_

from kdcache.errors import TrialError
from kdcache.modelling.batches import Batch, Batcher, Rows, device_rows, epoch_batches, pad_token, sent
from kdcache.modelling.encoding import EncodedSplit
from kdcache.modelling.predicting import autocast, in_bfloat16
from kdcache.study import Model
from kdcache.system.devices import device_name, peak_memory_mb, reset_peak_memory
from kdcache.training.state import WHOLE, Progress, Run
from kdcache.training.watching import NOBODY, Epoch, Watch

TrainingLoss = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]


@dataclass(frozen=True)
class Training:
    """The figures of a run of the loop: optimizer steps, mean loss of each epoch, wall-clock seconds, peak MiB, device.

    `precision` is the one that was used, "bfloat16" (autocast) or "float32", also if `auto` was asked for.
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
    watch: Watch = NOBODY,
) -> tuple[torch.nn.Module, Training]:
    """Train the model on the split and return it with the run's figures.

    Args:
        split: images may have V views; epoch e is then trained on view e mod V. Its last rows may have no labels: an
            epoch has every row once, so they add steps.
        loss: the mean over a batch, from logits [B, K], labels [B], soft logits [B, K] and the progress of training,
            0 at the first step and 1 at the last. Rows without a label come last in a batch: labels are then fewer.
        soft_logits: [N, K] cached raw logits in the split's row order, for distillers; [N, V, K] of a split with views.
        watch: is told of each step. It may have the state of an interrupted training. This one then continues from
            there, and ends with the same bits as an uninterrupted one.

    Raises:
        TrialError: the loss became infinite or NaN, or the watch's state is of another model.
    """

    def make(accelerator: Accelerator) -> Loop:
        return Loop(accelerator, model, split, loss, params, soft_logits, watch)

    return run(make, params, seed)


def run(make: Callable[[Accelerator], Loop], params: Model, seed: int) -> tuple[torch.nn.Module, Training]:
    """Run a loop for all epochs; returns and raises what `fine_tune` does.

    Args:
        make: makes the loop on the given processes and device.
    """
    accelerator = _accelerator()
    device = accelerator.device
    reset_peak_memory(device)
    loop = make(accelerator)
    torch.manual_seed(seed + accelerator.process_index)  # dropout: the same for every regularizer
    loop.network.train()
    with _attention(device):
        losses = loop.run(seed)
    trained = accelerator.unwrap_model(loop.network)
    if device.type != "cpu":
        accelerator.free_memory()
    seconds, memory = loop.cost()
    precision = "bfloat16" if in_bfloat16(params.precision, device) else "float32"
    return trained, Training(loop.steps, losses, seconds, memory, device_name(device), precision)


def _accelerator() -> Accelerator:
    """Processes and device as the user configured them; never precision and accumulation, which change results."""
    plugin = GradientAccumulationPlugin(num_steps=1)
    return Accelerator(mixed_precision="no", gradient_accumulation_plugin=plugin)


class Loop:
    """One run of the loop: the model with its optimizer and schedule, the rows on the device, and the progress."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        split: EncodedSplit,
        loss: TrainingLoss,
        params: Model,
        soft_logits: npt.NDArray[np.float32] | None,
        watch: Watch = NOBODY,
    ) -> None:
        device = accelerator.device
        self.loss = loss
        self.batches = Batcher(split, pad_token(model), device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.soft_logits = device_rows(_by_view(soft_logits), device)
        self._start(accelerator, model, params, len(split), watch)

    def _start(
        self, accelerator: Accelerator, model: torch.nn.Module, params: Model, rows: int, watch: Watch
    ) -> None:
        """Make the optimizer and the schedule for this number of rows an epoch."""
        self.begin = time.perf_counter()
        self.accelerator, self.params, self.watch = accelerator, params, watch
        self.steps = params.epochs * -(-rows // params.batch_size)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer, self.schedule = _optimizer(self.trainable, params, self.steps)
        self.network, prepared = accelerator.prepare(model, optimizer)
        self._descend: Callable[[Tensor], Any]
        if accelerator.distributed_type in WHOLE:  # Accelerate's wrappers look for packages at every step
            self.optimizer, self._descend, self._clip = optimizer, Tensor.backward, clip_grad_norm_
        else:
            self.optimizer, self._descend = prepared, accelerator.backward
            self._clip = accelerator.clip_grad_norm_
        self.progress = Progress(torch.zeros((), device=accelerator.device))
        self.state = Run(accelerator, self.network, self.optimizer, self.schedule, self.progress)

    def run(self, seed: int) -> list[float]:
        """Train all remaining epochs; returns the mean loss of every epoch, earlier ones included."""
        if (state := self.watch.state()) is not None:
            self.state.go_on_from(state)
        self.watch.begins(self.steps, self.schedule.last_epoch)
        while self.progress.epoch < self.params.epochs:
            self.epoch(seed)
        return self.progress.losses

    def epoch(self, seed: int) -> None:
        """Train on every row once, except those of batches that are done already."""
        begin, progress = time.perf_counter(), self.progress
        epoch = progress.epoch
        self.batches.view = epoch % self.batches.views
        whole = epoch_batches(self.batches.lengths, self.params.batch_size, seed, epoch)[progress.batch :]
        shares = [_share(rows, self.accelerator) for rows in whole]
        batches = sent([self._labelled_first(mine) for mine, _ in shares], self.accelerator.device)
        for rows, batch, (_, weight) in zip(whole, batches, shares, strict=True):
            progress.total += self.step(batch, weight) * len(rows)
            progress.batch += 1
            self._look()
        mean = self._mean_loss()
        progress.end_epoch(mean)
        seconds = time.perf_counter() - begin
        self.watch.epoch(Epoch(epoch + 1, self.params.epochs, mean, sum(map(len, whole)), seconds))

    def _look(self) -> None:
        self.watch.step()
        if self.watch.wants_state() and self.state.can_be_kept:
            self.watch.keep(self.state.state(*self.cost()))

    def _mean_loss(self) -> float:
        """The mean over the epoch's rows of all processes."""
        total = self.accelerator.reduce(self.progress.total, "mean")
        mean = float(total) / len(self.batches)
        if not math.isfinite(mean):
            raise TrialError(
                f"the training loss is {mean} in epoch {self.progress.epoch + 1}; lower learning_rate, or alpha of the "
                "regularizer"
            )
        return mean

    def cost(self) -> tuple[float, float]:
        """Wall-clock seconds and peak MiB so far, including those of interrupted processes."""
        seconds = time.perf_counter() - self.begin
        memory = peak_memory_mb(self.accelerator.device)
        return self.progress.seconds + seconds, max(self.progress.peak_memory_mb, memory)

    def _labelled_first(self, rows: Rows) -> Rows:
        """The rows in the order that the loss expects: those without a label last."""
        return rows[np.argsort(rows >= len(self.labels), kind="stable")]

    def step(self, batch: Batch, weight: float) -> Tensor:
        """One optimizer step on this process's share of a global batch, and its loss, on the device."""
        progress = self.schedule.last_epoch / max(1, self.steps - 1)
        loss = self.update(batch, weight, progress)
        self.schedule.step()
        return loss

    def update(self, batch: Batch, weight: float, progress: float) -> Tensor:
        """The device's part of a step. No value is read here, because reading waits for a GPU.

        With `accumulate` the gradients of a batch's parts add up to those of the batch; processes exchange them once.
        """
        *earlier, last = batch.parts(self.params.accumulate)
        losses = []
        for part in earlier:
            with self.accelerator.no_sync(self.network):
                losses.append(self._backward(part, weight * (len(part) / len(batch)), progress))
        losses.append(self._backward(last, weight * (len(last) / len(batch)), progress))
        self._clip(self.trainable, self.params.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _backward(self, batch: Batch, weight: float, progress: float) -> Tensor:
        """Add the gradients of a batch's loss, times its weight, to those that are there; returns the loss."""
        loss = self.loss_of(batch, progress) * weight
        self._descend(loss)
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
    """Logits [N, K] for each view, from [N, K] (one view) or [N, V, K]."""
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

    (A ViT with 17 tokens and heads of size 16: 54 ms a step, 15 with matrix products. Models with dropout in their
    attention never use the fused kernel there.)
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
