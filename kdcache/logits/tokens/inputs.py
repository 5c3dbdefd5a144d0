"""Read sequences: rows with `input_ids`, checked, and turned into columns of the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError
from kdcache.hashing.containers import by_position
from kdcache.logits.records import SPLIT_NAME
from kdcache.logits.tokens.rows import Ragged, row_hashes

Ints = npt.NDArray[np.int64]
KEYS = ("input_ids", "attention_mask", "labels", "loss_mask", "document_starts")


@dataclass(frozen=True)
class Sequences:
    """The sequences of a split."""

    tokens: Ragged
    starts: Ragged  # the places where documents begin, ascending from 0
    loss: Ragged  # a bool for each token: whether it is to be predicted; false for the first token

    def __len__(self) -> int:
        return len(self.tokens.lengths)

    @property
    def are_packed(self) -> bool:
        """Whether a row has several documents."""
        return bool((self.starts.lengths > 1).any())

    def part(self, chosen: npt.NDArray[np.int64] | slice) -> Sequences:
        """Some of the sequences."""
        return Sequences(self.tokens.part(chosen), self.starts.part(chosen), self.loss.part(chosen))

    def cut(self, length: int) -> Sequences:
        """The sequences' first tokens, at most `length` of each."""
        starts = [row[row < length] for row in self.starts.rows()]
        tokens, loss = ([row[:length] for row in column.rows()] for column in (self.tokens, self.loss))
        return Sequences(Ragged.of(tokens, np.int64), Ragged.of(starts, np.int64), Ragged.of(loss, np.bool_))

    def check_tokens(self, where: str, vocabulary: int) -> None:
        """Refuse tokens that are not in the vocabulary.

        Raises:
            CacheError: there is such a token. The message names the first.
        """
        wrong = np.flatnonzero(self.tokens.values >= vocabulary)
        if len(wrong):
            row = int(np.searchsorted(np.cumsum(self.tokens.lengths), wrong[0], side="right"))
            raise CacheError(
                f"{where}, row {row}: expected tokens from 0 to {vocabulary - 1}, found "
                f"{self.tokens.values[wrong[0]]}; teacher and sequences need the same tokenizer"
            )

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """The sequences' hashes, uint64 [n]."""
        return row_hashes(self.tokens, self.starts, self.loss)


def read_splits(where: str, sequences: Any) -> dict[str, Sequences]:
    """Sequences by split. Rows without a split are `train`.

    Raises:
        CacheError: a row or a split's name cannot be used. The message begins with `where`.
    """
    whole = isinstance(sequences, Mapping) and "input_ids" not in sequences
    splits = dict(sequences) if whole else {"train": sequences}
    for name in splits:
        if not isinstance(name, str) or not SPLIT_NAME.fullmatch(name):
            raise CacheError(f"{where}: {name!r:.80} is no split name (letters, digits, '-' and '_')")
    return {name: read_sequences(f"{where}: split {name!r}", rows) for name, rows in splits.items()}


def read_sequences(where: str, rows: Any) -> Sequences:
    """Sequences from rows, or from a batch.

    Args:
        where: the beginning of messages.
        rows: mappings by position (a list, a data set, a table), or one mapping of columns (a collated batch). They
            have `input_ids`, and optionally `attention_mask` (0 for padding, on the right), `labels` (-100 for a token
            that is not to be predicted, else the token itself), `loss_mask` (0 for such a token), and
            `document_starts`. With both labels and a loss_mask, a token is predicted only if both say so.

    Raises:
        CacheError: a row cannot be used. The message names it, and says what was expected and what was found.
    """
    if isinstance(rows, Mapping):
        each = _rows_of(where, rows)
    else:
        placed = _by_position(where, rows)
        each = [placed[k] for k in range(len(placed))]
    read = [_sequence(f"{where}, row {k}", row) for k, row in enumerate(each)]
    return Sequences(
        Ragged.of([row[0] for row in read], np.int64),
        Ragged.of([row[1] for row in read], np.int64),
        Ragged.of([row[2] for row in read], np.bool_),
    )


def _rows_of(where: str, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a batch, a mapping of columns."""
    columns = {key: batch[key] for key in KEYS if batch.get(key) is not None}
    if "input_ids" not in columns:
        raise CacheError(
            f"{where}: expected a batch with `input_ids`, found {', '.join(map(repr, batch)) or 'none'}"
        )
    try:
        counts = {key: len(values) for key, values in columns.items()}
    except TypeError as error:
        raise CacheError(
            f"{where}: expected columns with a value for each row in the batch ({error})"
        ) from None
    if len(set(counts.values())) > 1:
        raise CacheError(
            f"{where}: the batch's columns must have as many rows as `input_ids`, found {counts}"
        )
    return [{key: values[k] for key, values in columns.items()} for k in range(counts["input_ids"])]


def _by_position(where: str, rows: Any) -> Any:
    try:
        return by_position(rows)
    except CacheError as error:
        raise CacheError(f"{where}: {error}") from None


def _sequence(where: str, row: Any) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    if not isinstance(row, Mapping) or "input_ids" not in row:
        raise CacheError(f"{where}: expected a mapping with `input_ids`, found {type(row).__name__}")
    tokens = _integers(where, "input_ids", row["input_ids"])
    length = _unpadded(where, row, len(tokens))
    if length < 1 or tokens[:length].min() < 0:
        raise CacheError(
            f"{where}: expected token ids of 0 or more, at least one; found {tokens[:8].tolist()}"
        )
    tokens = tokens[:length]
    return tokens, _starts(where, row, length), _loss(where, row, tokens)


def _integers(where: str, name: str, values: Any) -> Ints:
    try:
        array = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
    except (TypeError, ValueError) as error:
        raise CacheError(f"{where}: {name} must be integers [L], one row's: {error}") from None
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        raise CacheError(f"{where}: {name} must be integers [L], found {array.dtype} {list(array.shape)}")
    return array.astype(np.int64)


def _unpadded(where: str, row: Mapping[str, Any], length: int) -> int:
    """How many tokens there are before the padding."""
    if row.get("attention_mask") is None:
        return length
    mask = _integers(where, "attention_mask", row["attention_mask"])
    kept = int(mask.sum())
    if len(mask) != length or not (mask[:kept] == 1).all() or mask[kept:].any():
        raise CacheError(
            f"{where}: expected an attention_mask of ones, then zeros, for {length} tokens; pad on the right"
        )
    return kept


def _starts(where: str, row: Mapping[str, Any], length: int) -> Ints:
    if row.get("document_starts") is None:
        return np.zeros(1, np.int64)
    starts = _integers(where, "document_starts", row["document_starts"])
    if not len(starts) or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= length:
        raise CacheError(
            f"{where}: document_starts must rise from 0, below the {length} tokens; found {starts[:8].tolist()}"
        )
    return starts


def _loss(where: str, row: Mapping[str, Any], tokens: Ints) -> npt.NDArray[np.bool_]:
    loss = np.ones(len(tokens), np.bool_)
    if row.get("labels") is not None:
        labels = _integers(where, "labels", row["labels"])[: len(tokens)]
        loss = labels != -100
        if len(labels) != len(tokens) or (labels[loss] != tokens[loss]).any():
            raise CacheError(
                f"{where}: labels must be the input_ids themselves, or -100; they are shifted by the loss, not before"
            )
    if row.get("loss_mask") is not None:
        mask = _integers(where, "loss_mask", row["loss_mask"])[: len(tokens)]
        if len(mask) != len(tokens):
            raise CacheError(f"{where}: expected {len(tokens)} values in loss_mask, found {len(mask)}")
        loss &= mask != 0
    loss[0] = False  # nothing predicts the first token
    return np.asarray(loss)


def padded(rows: Sequence[npt.NDArray[Any]], length: int, dtype: Any = np.int64) -> npt.NDArray[Any]:
    """Rows of unequal length as one array [n, length], padded with zeros on the right."""
    table = np.zeros((len(rows), length), dtype)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table
