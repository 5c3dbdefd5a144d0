"""How far a trained language model is from a teacher: KL and acceptance rate, from the teacher's token cache.

Nothing here is part of a trial: it is computed afterwards, from a kept model and a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from torch import Tensor

from kdcache.errors import CacheError
from kdcache.logits.tokens import Full, TokenCache, TopK, kd_token_loss
from kdcache.logits.tokens.batch import TokenBatch
from kdcache.modelling.tokens.inputs import DocumentInputs
from kdcache.modelling.tokens.likelihoods import inputs_of
from kdcache.modelling.tokens.packing import Packed


@dataclass(frozen=True)
class Mean:
    """A mean over tokens, and its standard error over documents (None if there is only one document)."""

    value: float
    error: float | None


@dataclass(frozen=True)
class Distance:
    """A student's distance from a teacher on one split. What cannot be computed is None; `reasons` says why.

    Args:
        kl: KL(teacher || student) in nats per token, the mean of an unbiased estimate at every token.
        acceptance: the mean over tokens of the sum over the vocabulary of min(teacher, student): the share of the
            student's tokens that speculative decoding would accept.
        tokens: how many tokens were predicted.
    """

    kl: Mean | None
    acceptance: Mean | None
    tokens: int
    reasons: dict[str, str]


def distance_to_teacher(
    network: Any, inputs: DocumentInputs, folder: Path, split: str, batch_size: int
) -> Distance:
    """Run a model over a split's documents, and compare it with a teacher's token cache of them.

    Args:
        network: a causal language model that takes the tokens of `inputs`.
        folder: the teacher's token cache, with this split.

    Raises:
        CacheError: the cache is damaged, or belongs to other data or sequences.
    """
    cache, packed = TokenCache(folder), inputs.packed(split)
    _check_same(cache, packed, inputs, split)
    reasons = _reasons(cache)
    parts: dict[str, list[npt.NDArray[np.float64]]] = {
        name: [] for name in ("kl", "acceptance") if name not in reasons
    }
    device = PartialState().device
    network = network.to(device).eval()
    with torch.inference_mode():
        for start in range(0, len(packed) if parts else 0, batch_size):
            rows = np.arange(start, min(start + batch_size, len(packed)))
            logits = network(**inputs_of(packed.sequences.part(rows), device)).logits
            draws = list(_draws(cache, split, rows, device))
            chosen = draws[0].loss
            if "kl" in parts:
                each = [kd_token_loss(logits, batch, temperature=1.0, reduction="none") for batch in draws]
                parts["kl"].append(_values(torch.stack(each).mean(0), chosen))
            if "acceptance" in parts:
                parts["acceptance"].append(_values(_overlap(logits, draws[0]), chosen))
    means = {name: _mean(np.concatenate(values), packed) for name, values in parts.items()}
    return Distance(means.get("kl"), means.get("acceptance"), len(packed.document), reasons)


def _check_same(cache: TokenCache, packed: Packed, inputs: DocumentInputs, split: str) -> None:
    data, size = cache.manifest.fingerprints.data, cache.manifest.vocabulary.size
    if data != inputs.card.fingerprint:
        raise CacheError(f"{cache.path}: its distributions are of other data; run `dvc repro`")
    same = split in cache.splits and np.array_equal(cache.split(split).row_hashes, packed.sequences.hashes)
    if not same or size != inputs.vocabulary:
        raise CacheError(
            f"{cache.path}: its sequences of {split!r} are not the student's: a teacher and its students need the same "
            "tokenizer and max_length"
        )


def _reasons(cache: TokenCache) -> dict[str, str]:
    """Why a cache does not give KL or acceptance, if it does not."""
    how, reasons = cache.manifest.how, {}
    if isinstance(how, TopK):
        reasons["kl"] = (
            f"a top-k cache lacks all but {how.k} tokens, so it has no unbiased estimate of KL; cache the teacher with "
            "threshold, rs or full"
        )
    elif cache.manifest.temperature != 1 and not isinstance(how, Full):
        reasons["kl"] = (
            f"the cache is of temperature {cache.manifest.temperature:g}, and KL is at 1; cache at 1, or with full"
        )
    if not isinstance(how, Full):
        reasons["acceptance"] = (
            f"it needs the teacher's probability of every token, and a {how.kind} cache has those of some; cache "
            "with full"
        )
    return reasons


def _draws(cache: TokenCache, split: str, rows: npt.NDArray[np.int64], device: Any) -> Iterator[TokenBatch]:
    """Each draw of some sequences. The mean of several draws' estimates varies less than one estimate."""
    return (cache.batch(rows, split, epoch=draw).to(device) for draw in range(cache.manifest.how.draws))


def _overlap(logits: Tensor, batch: TokenBatch) -> Tensor:
    """The sum of min(p, q) at each position, [n, L - 1], in pieces of one sequence."""
    assert batch.full is not None
    overlaps = []
    for row, full in zip(logits, batch.full, strict=True):
        teacher = (full * batch.temperature).softmax(1)
        student = row[:-1].float().softmax(1)[:, : batch.vocabulary]
        overlaps.append(torch.minimum(teacher, student).sum(1))
    return torch.stack(overlaps)


def _values(table: Tensor, chosen: Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(table[chosen].double().cpu().numpy())


def _mean(values: npt.NDArray[np.float64], packed: Packed) -> Mean:
    """The mean over tokens. Tokens of one document depend on each other, so the error is that of a ratio of sums."""
    sums = np.bincount(packed.document, values, packed.documents)
    counts = np.bincount(packed.document, minlength=packed.documents)
    mean, documents = float(values.mean()), packed.documents
    if documents < 2:
        return Mean(mean, None)
    spread = np.square(sums - mean * counts).sum() * documents / (documents - 1)
    return Mean(mean, float(np.sqrt(spread) / counts.sum()))
