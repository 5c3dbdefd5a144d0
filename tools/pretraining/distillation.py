"""Sentence-embedding distillation: the pooled CLS of a BERT learns to give a sentence encoder's embedding.

The loss is 1 - cosine between the teacher's embedding and a linear projection of the student's pooler output. The
pooler is what a classification head reads, so fine-tuning starts from what was learned. The projection only adapts the
student's width to the teacher's, and is not saved.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.checkpoints.checkpoint import read_config
from kdcache.modelling.batches import epoch_batches
from tools.pretraining.embeddings import Embeddings, load_encoder, pad
from tools.pretraining.errors import PretrainingError
from tools.pretraining.loop import Loop, learning_rate, make_optimizer
from tools.pretraining.masking import HOLD_OUT, Ids, generator
from tools.pretraining.recipe import Distillation
from tools.pretraining.state import Progress, load_state

log = logging.getLogger(__name__)


class Student(nn.Module):
    """A BERT encoder with its pooler, and a projection to the teacher's width D.

    It stays in eval mode: no dropout, as in language modelling.
    """

    def __init__(self, folder: Path, width: int, seed: int) -> None:
        """Load the encoder from a checkpoint folder; weights that it lacks are drawn from the seed.

        Without an earlier distillation these are the pooler's.

        Raises:
            ModelError, PretrainingError: the folder is no model, or no BERT.
        """
        super().__init__()
        family = read_config(folder)["model_type"]
        if family != "bert":
            raise PretrainingError(f"{folder}: expected a bert checkpoint to distil into, found {family}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = load_encoder(folder)
            self.projection = nn.Linear(self.encoder.config.hidden_size, width)
        self.eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings [B, D] of token ids [B, S] with their mask [B, S]; not of length 1."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled = self.encoder(input_ids=ids, attention_mask=mask).pooler_output
        embedding: Tensor = self.projection(pooled.float())
        return embedding


def embedding_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of 1 - cosine of the angle between embeddings [B, D]: 0 at best, 2 at worst."""
    return (1 - F.cosine_similarity(embeddings, targets, dim=-1)).mean()


class Distiller(Loop):
    """One run; its order of pieces and its held-out pieces derive from the recipe's seed."""

    def __init__(
        self,
        recipe: Distillation,
        student: Student,
        token_ids: Sequence[Sequence[int]],
        targets: Embeddings,
        padding: int,
    ) -> None:
        """Take the pieces' token ids, N rows of any length, and the teacher's embeddings of them [N, D].

        Raises:
            PretrainingError: too few pieces for a batch.
        """
        self.recipe, self.token_ids, self.targets, self.padding = recipe, token_ids, targets, padding
        order = generator(recipe.seed, HOLD_OUT, 0).permutation(len(token_ids))
        held = max(1, round(recipe.validation_fraction * len(order)))
        self.validation, self.training = np.sort(order[:held]), np.sort(order[held:])
        if len(self.training) < recipe.batch_size:
            raise PretrainingError(
                f"the texts give {len(self.training)} pieces to learn from, expected at least batch_size = "
                f"{recipe.batch_size}: add text or make the batch smaller"
            )
        self.lengths = np.array([len(token_ids[row]) for row in self.training])
        self.epoch_steps = -(-len(self.training) // recipe.batch_size)
        self.batches: tuple[int, list[Ids]] = (-1, [])  # an epoch and its batches
        steps = recipe.epochs * self.epoch_steps
        warmup = round(recipe.warmup_fraction * steps)
        optimizer = make_optimizer(student, recipe.learning_rate, recipe.weight_decay)
        progress = Progress(steps=steps, decay_start=warmup)
        super().__init__(student, optimizer, progress, "pieces", recipe.batch_size)

    def resume(self, path: Path, identity: str) -> None:
        """Continue from a state file if there is one."""
        if path.exists():
            self.progress = load_state(path, self.model, self.optimizer, identity)
            log.info("resumed %s at step %d of %d", path, self.progress.step, self.progress.steps)

    def loss(self, step: int) -> Tensor:
        return self._loss(self.training[self._batch(step)])

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean of 1 - cosine over the held-out pieces."""
        size, rows = self.recipe.batch_size, self.validation
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        return sum(self._loss(batch).item() * len(batch) for batch in batches) / len(rows)

    def learning_rate(self) -> float:
        at = self.progress
        return learning_rate(
            at.step,
            peak=self.recipe.learning_rate,
            warmup=at.decay_start,
            decay_start=at.decay_start,
            steps=at.steps,
        )

    def _batch(self, step: int) -> Ids:
        """Indices into the training pieces: every piece once an epoch, pieces of similar length together."""
        epoch, index = divmod(step, self.epoch_steps)
        if self.batches[0] != epoch:
            self.batches = epoch, epoch_batches(self.lengths, self.recipe.batch_size, self.recipe.seed, epoch)
        return self.batches[1][index]

    def _loss(self, rows: Ids) -> Tensor:
        ids, mask = pad([self.token_ids[row] for row in rows], self.padding)
        targets = torch.from_numpy(self.targets[rows]).float()
        return embedding_loss(self.model(ids, mask), targets)
