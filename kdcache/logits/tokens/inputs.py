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
# Each of these masks has 0 for a token that is not to be predicted, and each of the others says where documents begin.
MASKS = ("loss_mask", "assistant_masks", "completion_mask")
DOCUMENTS = ("document_starts", "position_ids", "seq_lengths")
KEYS = ("input_ids", "attention_mask", "labels", *MASKS, *DOCUMENTS)
MOST_TOKENS = 1 << 31  # a vocabulary is smaller; so token ids take four bytes, and a hash tells them apart


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

    @property
    def longest_documents(self) -> Ints:
        """How many tokens the longest document of each sequence has, int64 [n]."""
        pairs = zip(self.starts.rows(), self.tokens.lengths, strict=True)
        return np.array([np.diff(starts, append=length).max() for starts, length in pairs], np.int64)

    def part(self, chosen: npt.NDArray[np.int64] | slice) -> Sequences:
        """Some of the sequences."""
        return Sequences(self.tokens.part(chosen), self.starts.part(chosen), self.loss.part(chosen))

    def cut(self, length: int) -> Sequences:
        """The sequences' first tokens, at most `length` of each."""
        starts = [row[row < length] for row in self.starts.rows()]
        tokens, loss = ([row[:length] for row in column.rows()] for column in (self.tokens, self.loss))
        return Sequences(Ragged.of(tokens, np.int32), Ragged.of(starts, np.int64), Ragged.of(loss, np.bool_))

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
    splits = by_split(where, sequences, "train")
    return {name: read_sequences(f"{where}: split {name!r}", rows) for name, rows in splits.items()}


def by_split(where: str, rows: Any, split: str) -> dict[str, Any]:
    """Rows by split: those of a mapping without `input_ids`, or else one split's.

    Args:
        split: the split of rows without one.

    Raises:
        CacheError: a split's name cannot be used.
    """
    whole = isinstance(rows, Mapping) and "input_ids" not in rows
    splits = dict(rows) if whole else {split: rows}
    for name in splits:
        if not isinstance(name, str) or not SPLIT_NAME.fullmatch(name):
            raise CacheError(f"{where}: {name!r:.80} is no split name (letters, digits, '-' and '_')")
    return splits


def read_sequences(where: str, rows: Any) -> Sequences:
    """Sequences from rows, or from a batch.

    Args:
        where: the beginning of messages.
        rows: mappings by position (a list, a data set, a table), or one mapping of columns (a collated batch). They
            have `input_ids`, and optionally `attention_mask` (0 for padding, on the right), `labels` (-100 for a token
            that is not to be predicted, else the token itself), `loss_mask`, `assistant_masks` or `completion_mask` (0
            for such a token), and `document_starts`. With several of these masks or labels, a token is predicted only
            if all say so. `position_ids` and `seq_lengths` are compared with `document_starts`.

    Raises:
        CacheError: a row cannot be used. The message names it, and says what was expected and what was found.
    """
    placed = _rows_of(where, rows) if isinstance(rows, Mapping) else _by_position(where, rows)
    # Row after row: as Python's numbers a row takes ten times the memory of its arrays.
    read = [_sequence(f"{where}, row {k}", placed[k]) for k in range(len(placed))]
    return Sequences(
        Ragged.of([row[0] for row in read], np.int32),
        Ragged.of([row[1] for row in read], np.int64),
        Ragged.of([row[2] for row in read], np.bool_),
    )


def _rows_of(where: str, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a batch, a mapping of columns."""
    columns = {key: batch[key] for key in KEYS if batch.get(key) is not None}
    shared = _shared_positions(columns)
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
    return [
        {**shared, **{key: values[k] for key, values in columns.items()}} for k in range(counts["input_ids"])
    ]


def _shared_positions(columns: dict[str, Any]) -> dict[str, Any]:
    """The `position_ids` [1, L] of all rows of a batch, removed from its columns; empty if each row has its own.

    Some families have three for each token: such positions are removed, and not compared.
    """
    positions = columns.get("position_ids")
    dimensions = _dimensions(positions)
    if positions is None or (dimensions == 2 and len(positions) != 1):
        return {}
    del columns["position_ids"]
    return {"position_ids": positions[0]} if dimensions == 2 else {}


def _dimensions(values: Any) -> int:
    """Of an array, or of lists, whose lengths may differ."""
    if isinstance(values, list | tuple):
        return 1 + (_dimensions(values[0]) if values else 0)
    return getattr(values, "ndim", 0)


def _by_position(where: str, rows: Any) -> Any:
    try:
        return by_position(rows)
    except CacheError as error:
        raise CacheError(f"{where}: {error}") from None


def _sequence(where: str, row: Any) -> tuple[npt.NDArray[np.int32], Ints, npt.NDArray[np.bool_]]:
    if not isinstance(row, Mapping) or "input_ids" not in row:
        raise CacheError(f"{where}: expected a mapping with `input_ids`, found {type(row).__name__}")
    tokens = _integers(where, "input_ids", row["input_ids"])
    length = _unpadded(where, row, len(tokens))
    tokens = tokens[:length]
    if length < 1 or tokens.min() < 0 or tokens.max() >= MOST_TOKENS:
        raise CacheError(
            f"{where}: expected token ids of 0 or more, below 2^31, at least one; found {tokens[:8].tolist()}"
        )
    starts = _starts(where, row, length)
    _check_positions(where, row, starts, length)
    _check_lengths(where, row, starts, length)
    return tokens.astype(np.int32), starts, _loss(where, row, tokens)


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


def _check_positions(where: str, row: Mapping[str, Any], starts: Ints, length: int) -> None:
    """Refuse positions that are not those of the row's documents: a student with them would see other tokens."""
    given = row.get("position_ids")
    if given is None or _dimensions(given) != 1:  # some families have three for each token
        return
    found, expected = _integers(where, "position_ids", given)[:length], positions_of(starts, length)
    if len(found) != length:
        raise CacheError(f"{where}: expected {length} position_ids, found {len(found)}")
    wrong = np.flatnonzero(found != expected)
    if len(wrong) and found[wrong[0]] == 0:
        raise CacheError(
            f"{where}: position_ids begin anew at position {wrong[0]}, but there are no document_starts that say so, "
            "and the cache knows documents by these alone; give document_starts (the places where documents begin), "
            "to write_token_logits too"
        )
    if len(wrong):
        raise CacheError(
            f"{where}: expected the position {expected[wrong[0]]} at place {wrong[0]} of position_ids, found "
            f"{found[wrong[0]]}; they must count from 0 in each document, and documents begin where document_starts "
            f"say: {starts[:8].tolist()}"
        )


def _check_lengths(where: str, row: Mapping[str, Any], starts: Ints, length: int) -> None:
    """Refuse `seq_lengths`, as TRL gives them for packed rows, that are not those of the row's documents."""
    given = row.get("seq_lengths")
    if given is None or _dimensions(given) != 1:  # a single number says nothing about documents
        return
    lengths = _integers(where, "seq_lengths", given)
    if not np.array_equal(lengths, np.diff(starts, append=length)):
        raise CacheError(
            f"{where}: expected seq_lengths {np.diff(starts, append=length)[:8].tolist()}, found "
            f"{lengths[:8].tolist()}; the cache knows documents by document_starts alone, so give these (the places "
            "where documents begin), to write_token_logits too"
        )


def _loss(where: str, row: Mapping[str, Any], tokens: Ints) -> npt.NDArray[np.bool_]:
    loss = np.ones(len(tokens), np.bool_)
    if row.get("labels") is not None:
        labels = _integers(where, "labels", row["labels"])[: len(tokens)]
        loss = labels != -100
        if len(labels) != len(tokens) or (labels[loss] != tokens[loss]).any():
            raise CacheError(
                f"{where}: labels must be the input_ids themselves, or -100; they are shifted by the loss, not before"
            )
    for name in MASKS:
        if row.get(name) is None:
            continue
        mask = _integers(where, name, row[name])[: len(tokens)]
        if len(mask) != len(tokens):
            raise CacheError(f"{where}: expected {len(tokens)} values in {name}, found {len(mask)}")
        loss &= mask != 0
    loss[0] = False  # nothing predicts the first token
    return np.asarray(loss)


def padded(rows: Sequence[npt.NDArray[Any]], length: int, dtype: Any = np.int64) -> npt.NDArray[Any]:
    """Rows of unequal length as one array [n, length], padded with zeros on the right."""
    table = np.zeros((len(rows), length), dtype)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def model_inputs(sequences: Sequences, length: int | None = None) -> dict[str, npt.NDArray[np.int64]]:
    """A batch as a transformers model takes it: padded on the right, with positions that begin anew in each document.

    If rows have several documents there is no attention mask: with a mask, transformers does not keep documents apart.
    Without, it does for most families of models; `apart.py` tries a model out.
    A causal model does not need it. It never looks to the right, where the padding is.
    """
    lengths = sequences.tokens.lengths
    longest = max(int(lengths.max(initial=1)), length or 0)
    inputs = {"input_ids": padded(sequences.tokens.rows(), longest)}
    if sequences.are_packed:
        pairs = zip(sequences.starts.rows(), lengths, strict=True)
        inputs["position_ids"] = padded(
            [positions_of(starts, int(count)) for starts, count in pairs], longest
        )
    elif (lengths < longest).any():
        inputs["attention_mask"] = padded([np.ones(count, np.int64) for count in lengths], longest)
    return inputs


def positions_of(starts: npt.NDArray[Any], length: int) -> Ints:
    """The positions [length] of a row's tokens, which begin anew in each document."""
    sizes = np.diff(starts, append=length)
    return np.asarray(np.arange(length) - np.repeat(starts, sizes))
