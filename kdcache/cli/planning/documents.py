"""The size of a task of documents for one model: how many packed sequences, and how many bytes are kept of them.

Only the model's tokenizer can tell the number of sequences: it counts the documents' tokens. Loading it imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.cli.planning.runs import ROW_BYTES, Size
from kdcache.errors import ModelError
from kdcache.logits.tokens.estimators import KINDS, RS, Estimator, Full, Threshold, TopK
from kdcache.study import Model
from kdcache.study.estimates import TokenEstimate
from kdcache.tasks.prepared import PreparedTask

COUNTED = 4096  # documents of a split whose tokens are counted; for more, the bytes give an estimate
TOKEN_BYTES = 9  # for an evaluated token: nll, confidence, right


@dataclass(frozen=True)
class PackedSize(Size):
    """A task's numbers for one model. Packed sequences take the place of rows, and V that of classes."""

    length: int = 0  # tokens of a sequence
    estimate: TokenEstimate = field(default_factory=TokenEstimate)

    def cache_bytes(self, rows: int) -> int | None:
        """An upper bound for the bytes of a token cache of some sequences, before Parquet compresses them."""
        if self.classes is None:
            return None
        how = KINDS[self.estimate.estimator](**self.estimate.values)
        position = stored_bytes(how, self.classes)
        token = _token_bytes(self.classes) + 1  # plus its place in the loss mask
        return rows * (ROW_BYTES + self.length * token + (self.length - 1) * position)

    def score_bytes(self, rows: int) -> int | None:
        """The bytes of the likelihoods that a trial keeps of some evaluated sequences."""
        return rows * (self.length - 1) * TOKEN_BYTES


def stored_bytes(how: Estimator, vocabulary: int) -> int:
    """The largest number of bytes of one position, uncompressed: entries, counts, entropy, true token."""
    token, most = _token_bytes(vocabulary), how.most(vocabulary)
    exact, sampled = token + 4, token * how.draws
    entry = {Threshold: max(exact, sampled), RS: sampled, TopK: exact, Full: 4}[type(how)]
    return most * entry + 2 * np.min_scalar_type(most).itemsize + 8


def _token_bytes(vocabulary: int) -> int:
    return 2 if vocabulary <= 1 << 16 else 4


@dataclass(frozen=True)
class Counting:
    """Counts one prepared task's packed sequences, for one model after the other.

    Args:
        task: the prepared task; None if it is not prepared.
        told: the number of sequences, if the user gives it. It is then the same for every model.
        length: tokens of a sequence.
    """

    task: PreparedTask | None
    told: Size | None
    length: int

    @cached_property
    def _counted(self) -> dict[Path, tuple[str, Size | str]]:
        """For each checkpoint folder: its name in the study, and the sizes by its tokenizer or why they are unknown."""
        return {}

    def size(self, model: Model, checkpoint: Checkpoint | None) -> PackedSize | None:
        """The task's size for the model; None if the user did not give it and the task or the checkpoint is missing."""
        counted = self.told or self._by_tokenizer(model.checkpoint, checkpoint)
        if not isinstance(counted, Size):
            return None
        return PackedSize(**vars(counted), length=self.length, estimate=model.estimate)

    def notes(self, name: str) -> list[str]:
        """The numbers that the tokenizers gave, one line for each.

        Args:
            name: the task's name.
        """
        lines = []
        for checkpoint, size in self._counted.values():
            if isinstance(size, str):
                lines.append(f"task {name}: its packed sequences are unknown: {size}")
            else:
                about = "about " if self._is_estimated else ""
                lines.append(
                    f"task {name}: by the tokenizer of {checkpoint}, {about}{size.train:,} packed sequences to learn "
                    f"from and {size.evaluated:,} to be judged by"
                )
        return lines

    @property
    def _is_estimated(self) -> bool:
        return self.task is not None and max(self.task.card.rows.values()) > COUNTED

    def _by_tokenizer(self, name: str, checkpoint: Checkpoint | None) -> Size | str | None:
        if self.task is None or checkpoint is None:
            return None
        folder = checkpoint.folder
        if folder not in self._counted:
            try:
                self._counted[folder] = name, self._count(self.task, folder)
            except ModelError as error:
                self._counted[folder] = name, str(error)
        return self._counted[folder][1]

    def _count(self, task: PreparedTask, folder: Path) -> Size:
        from kdcache.modelling.preprocessors import open_tokenizer  # imports transformers and torch

        tokenizer = open_tokenizer(folder)
        sequences = {
            split: sequences_of(
                count_tokens(task.rows(split, ["text"])["text"], tokenizer),
                task.card.rows[split],
                self.length,
            )
            for split in ("train", *task.card.evaluated)
        }
        evaluated = sum(sequences[split] for split in task.card.evaluated)
        return Size(sequences["train"], evaluated, len(tokenizer))


def sequences_of(tokens: int, documents: int, length: int) -> int:
    """How many sequences some documents are packed into, as by `kdcache.modelling.tokens.packing.pack`.

    Args:
        tokens: the number of all documents' tokens, without the tokens that end documents.
    """
    stream = tokens + documents + 1
    return -(-(stream - 1) // (min(length, stream) - 1))


def count_tokens(texts: pa.ChunkedArray, tokenizer: Any) -> int:
    """The tokens of all texts. If there are more than COUNTED texts, a random sample gives the tokens per byte."""
    sample = texts
    if len(texts) > COUNTED:
        sample = texts.take(np.random.default_rng(0).choice(len(texts), COUNTED, replace=False))
    encoded = tokenizer(
        sample.to_pylist(), add_special_tokens=False, return_attention_mask=False, verbose=False
    )
    tokens = sum(map(len, encoded["input_ids"]))
    return round(tokens * _bytes(texts) / _bytes(sample))


def _bytes(texts: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.binary_length(texts)).as_py())
