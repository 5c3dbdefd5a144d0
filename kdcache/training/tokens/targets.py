"""What a language model learns from at each token of a batch: the next token, and a teacher's cached distribution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from kdcache.errors import CacheError
from kdcache.logits.tokens import TokenCache
from kdcache.logits.tokens.batch import TokenBatch
from kdcache.logits.tokens.estimators import Full
from kdcache.logits.tokens.inputs import padded
from kdcache.modelling.batches import Rows
from kdcache.modelling.tokens.packing import Packed

Targets: TypeAlias = Callable[[Rows, int], TokenBatch]  # of rows, in an epoch


def hard_targets(packed: Packed, vocabulary: int) -> Targets:
    """The next tokens alone: batches without entries.

    Args:
        vocabulary: V; a model's outputs beyond it have the target 0 in every loss.
    """

    def of(rows: Rows, _: int) -> TokenBatch:
        sequences = packed.sequences.part(rows)
        length = int(sequences.tokens.lengths.max())
        loss = torch.from_numpy(padded(sequences.loss.rows(), length, np.bool_)[:, 1:])
        none, nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(loss.shape)
        return TokenBatch(
            ids=rows,
            tokens=torch.from_numpy(padded(sequences.tokens.rows(), length)),
            attention_mask=torch.ones((len(rows), length), dtype=torch.int64),
            loss=loss,
            position=none,
            token=none,
            weight=torch.zeros(0),
            entropy=nothing,
            label_logprob=nothing,
            full=None,
            estimator=Full(),
            vocabulary=vocabulary,
            temperature=1.0,
        )

    return of


def cached_targets(folder: Path, packed: Packed, vocabulary: int, data: str) -> Targets:
    """The next tokens, and what a token cache holds of a teacher's distributions; draw e in epoch e.

    Args:
        data: the fingerprint of the task.

    Raises:
        CacheError: the cache is of other data, or of sequences that are made of other tokens.
    """
    cache = TokenCache(folder)
    cached = cache.manifest.fingerprints.data
    if cached != data:
        raise CacheError(
            f"{cache.path}: its distributions are of other data: expected {data}, found {cached}; cache them again"
        )
    rows, hashes = cache.split("train"), packed.sequences.hashes
    size = cache.manifest.vocabulary.size
    if size != vocabulary or not np.array_equal(rows.row_hashes, hashes):
        raise CacheError(
            f"{cache.path}: its sequences are others ({len(rows)} over {size} tokens) than the student's "
            f"({len(hashes)} over {vocabulary}): a teacher and its students need the same tokenizer and max_length"
        )
    return lambda rows, epoch: cache.batch(rows, epoch=epoch)
