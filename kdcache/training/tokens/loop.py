"""The training loop on packed sequences: the one of `kdcache.training.loop`, with a loss at every token."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from kdcache.modelling.batches import Batch, Rows
from kdcache.modelling.predicting import autocast
from kdcache.modelling.tokens.likelihoods import inputs_of
from kdcache.modelling.tokens.packing import Packed
from kdcache.study import Model
from kdcache.training.loop import Training, _Loop, run
from kdcache.training.tokens.losses import TokenLoss
from kdcache.training.tokens.targets import Targets


def fine_tune_tokens(
    model: torch.nn.Module, packed: Packed, targets: Targets, loss: TokenLoss, params: Model, seed: int
) -> tuple[torch.nn.Module, Training]:
    """Train a causal language model on packed sequences and return it with the run's figures.

    Raises:
        TrialError: the loss became infinite or NaN.
    """
    return run(lambda accelerator: TokenLoop(accelerator, model, packed, targets, loss, params), params, seed)


class TokenLoop(_Loop):
    """One run of the loop. A row is a sequence; every epoch has each once, with the epoch's own draw of a teacher."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        packed: Packed,
        targets: Targets,
        loss: TokenLoss,
        params: Model,
    ) -> None:
        self.token_loss, self.targets = loss, targets
        self.packed, self.batches = packed, _Lengths(len(packed))  # type: ignore[assignment]
        self.now = 0
        self._start(accelerator, model, params, len(packed))

    def epoch(self, seed: int, epoch: int) -> float:
        self.now = epoch
        return super().epoch(seed, epoch)

    def _labelled_first(self, rows: Rows) -> Rows:
        return rows

    def loss_of(self, batch: Batch, progress: float) -> Tensor:
        device = self.accelerator.device
        targets = self.targets(batch.rows, self.now).to(device)
        with autocast(self.params.precision, device):
            logits = self.network(**inputs_of(self.packed.sequences.part(batch.rows), device)).logits
        return self.token_loss(logits, targets, progress)


class _Lengths:
    """What the loop asks of its rows: how many and how long they are, and in how many views; here all are alike."""

    views, view = 1, 0

    def __init__(self, rows: int) -> None:
        self.lengths = np.zeros(rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)
