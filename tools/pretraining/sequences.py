"""Texts as full token sequences [N, S] without padding, packed once and kept beside the run's state."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from kdcache.system.files import write_atomically
from tools.pretraining.recipe import Family, PretrainingRecipe

log = logging.getLogger(__name__)

Sequences: TypeAlias = npt.NDArray[np.uint16]

DOCUMENTS = 1000  # tokenized at a time


def prepare_sequences(
    recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], work_dir: Path
) -> tuple[Sequences, str]:
    """The packed sequences [N, S], kept in the work directory, and a digest of what they were made from."""
    key = digest([recipe.family, str(recipe.sequence_length), tokenizer.backend_tokenizer.to_str(), *texts])
    path = work_dir / f"sequences-{key}.npy"
    if not path.exists():
        log.info("tokenizing %d documents", len(texts))
        packed = pack_sequences(recipe.family, tokenizer, texts, recipe.sequence_length)
        write_atomically(path, partial(save_array, packed))
    return np.load(path, allow_pickle=False), key


def digest(parts: Iterable[str]) -> str:
    """16 hex digits that name these strings in this order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def save_array(array: npt.NDArray[Any], path: Path) -> None:
    """Write an array as .npy, whatever the name of the path."""
    with path.open("wb") as file:  # given a name, np.save would add .npy to it
        np.save(file, array)


def pack_sequences(
    family: Family, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int
) -> Sequences:
    """Documents, joined and cut into full sequences [N, length], without padding; a short last one is dropped.

    BERT and RoBERTa: CLS ... SEP, with a SEP between documents, as a fine-tuned short text is laid out.
    GPT-2: an end-of-text token after each document.
    """
    end = tokenizer.eos_token_id if family == "gpt2" else tokenizer.sep_token_id
    inner = length if family == "gpt2" else length - 2
    stream = _token_stream(tokenizer, texts, end)
    rows = stream[: len(stream) // inner * inner].reshape(-1, inner)
    if family == "gpt2":
        return rows
    first, last = (np.full((len(rows), 1), token, np.uint16) for token in (tokenizer.cls_token_id, end))
    return np.hstack([first, rows, last])


def _token_stream(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], end: int) -> Sequences:
    """The documents' tokens one after the other, each document followed by `end`."""
    backend = tokenizer.backend_tokenizer
    parts = []
    for start in range(0, len(texts), DOCUMENTS):
        documents = list(texts[start : start + DOCUMENTS])
        for encoding in backend.encode_batch_fast(documents, add_special_tokens=False):
            parts.append(np.array([*encoding.ids, end], dtype=np.uint16))
    return np.concatenate(parts)
