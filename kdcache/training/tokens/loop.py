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
from kdcache.training.loop import Loop, Training, run
from kdcache.training.tokens.losses import TokenLoss
from kdcache.training.tokens.targets import Targets
from kdcache.training.watching import NOBODY, Watch


def fine_tune_tokens(
    model: torch.nn.Module,
    packed: Packed,
    targets: Targets,
    loss: TokenLoss,
    params: Model,
    seed: int,
    watch: Watch = NOBODY,
) -> tuple[torch.nn.Module, Training]:
    """Train a causal language model on packed sequences and return it with the run's figures.

    Args:
        watch: looks on, and may have a state to go on from; see `kdcache.training.loop.fine_tune`.

    Raises:
        TrialError: the loss became infinite or NaN, or the watch's state is of another model.
    """

    def make(accelerator: Accelerator) -> TokenLoop:
        return TokenLoop(accelerator, model, packed, targets, loss, params, watch)

    return run(make, params, seed)


class TokenLoop(Loop):
    """One run of the loop. A row is a sequence; every epoch has each once, with the epoch's own draw of a teacher."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        packed: Packed,
        targets: Targets,
        loss: TokenLoss,
        params: Model,
        watch: Watch,
    ) -> None:
        self.token_loss, self.targets = loss, targets
        self.packed, self.batches = packed, _Lengths(len(packed))  # type: ignore[assignment]
        self._start(accelerator, model, params, len(packed), watch)

    def _labelled_first(self, rows: Rows) -> Rows:
        return rows

    def loss_of(self, batch: Batch, progress: float) -> Tensor:
        device = self.accelerator.device
        targets = self.targets(batch.rows, self.progress.epoch).to(device)
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
