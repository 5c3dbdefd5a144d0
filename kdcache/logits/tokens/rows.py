"""Token rows: packed sequences and what is stored at each of their positions, in ragged arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.hashing.digests import digest_of, short, with_lengths
from kdcache.logits.rows import Rows

PER_POSITION = ("heads", "tails", "label_logprob", "entropy")  # L - 1 values each, in a row of L tokens


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length, stored one after the other."""

    values: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]  # [n]

    @classmethod
    def of(cls, rows: Sequence[npt.NDArray[Any]], dtype: Any) -> Ragged:
        """Rows from one array for each row."""
        values = np.concatenate([np.zeros(0, dtype), *rows]).astype(dtype, copy=False)
        return cls(values, np.array([len(row) for row in rows], np.int64))

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where each row begins."""
        return np.asarray(np.cumsum(self.lengths) - self.lengths)

    def rows(self) -> list[npt.NDArray[Any]]:
        """One array for each row."""
        return np.split(self.values, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []

    def sums(self) -> npt.NDArray[np.int64]:
        """The sum of each row's values."""
        total = np.concatenate([[0], np.cumsum(self.values, dtype=np.int64)])
        return np.asarray(total[self.starts + self.lengths] - total[self.starts])

    def part(self, chosen: slice | npt.NDArray[Any]) -> Ragged:
        """Some of the rows."""
        starts, lengths = self.starts[chosen], self.lengths[chosen]
        if isinstance(chosen, slice) and chosen.step in (None, 1):
            first = int(starts[0]) if len(starts) else 0
            return Ragged(self.values[first : first + int(lengths.sum())], lengths)
        first_of_row = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return Ragged(self.values[first_of_row + np.arange(len(first_of_row))], lengths)

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of one or more pieces."""
        return cls(
            np.concatenate([part.values for part in parts]), np.concatenate([part.lengths for part in parts])
        )


class Growing:
    """An array that is made of pieces, each of which can be forgotten once it is added."""

    def __init__(self, dtype: Any) -> None:
        self._values: npt.NDArray[Any] = np.empty(0, dtype)
        self._filled = 0

    def add(self, piece: npt.NDArray[Any]) -> None:
        """Append the values of a piece."""
        end = self._filled + len(piece)
        if end > len(
            self._values
        ):  # by an eighth at least; a large array is then moved, not copied, on Linux
            self._values.resize(max(end, len(self._values) * 9 // 8), refcheck=False)
        self._values[self._filled : end] = piece
        self._filled = end

    def whole(self) -> npt.NDArray[Any]:
        """All values. Nothing can be added afterwards."""
        self._values.resize(self._filled, refcheck=False)
        return self._values


@dataclass(frozen=True)
class Shape:
    """The values that decide which lengths of columns fit together."""

    vocabulary: int
    draws: int
    full: bool  # every token is in the head, and the head's ids are not stored


@dataclass(frozen=True)
class TokenRows(Rows):
    """Sequences as they are stored, column by column (see `format.py`). Token ids are stored as gaps (`to_gaps`)."""

    shape: Shape
    columns: Mapping[str, Ragged]

    def part(self, chosen: slice | npt.NDArray[Any]) -> TokenRows:
        columns = {name: column.part(chosen) for name, column in self.columns.items()}
        return TokenRows(self.ids[chosen], self.row_hashes[chosen], self.shape, columns)

    @classmethod
    def joined(cls, parts: Sequence[TokenRows]) -> TokenRows:
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.row_hashes for part in parts]),
            parts[0].shape,
            {name: Ragged.joined([part.columns[name] for part in parts]) for name in parts[0].columns},
        )

    def misfit(self) -> str | None:
        """Which columns have lengths that do not fit the others; None if all fit."""
        column, tokens = self.columns, self.columns["tokens"].lengths
        heads = column["heads"].sums()
        expected = {name: np.maximum(tokens - 1, 0) for name in PER_POSITION}
        expected |= {
            "loss": tokens,
            "head_logprobs": heads,
            "head_ids": 0 * heads if self.shape.full else heads,
        }
        expected["tail_ids"] = self.shape.draws * column["tails"].sums()
        wrong = [
            name for name, lengths in expected.items() if not np.array_equal(column[name].lengths, lengths)
        ]
        return f"the lengths of {', '.join(wrong)} do not fit the other columns" if wrong else None

    def fault(self) -> str | None:
        return super().fault() or self._wrong_values() or self._wrong_hash()

    def _wrong_values(self) -> str | None:
        column, vocabulary = self.columns, self.shape.vocabulary
        if column["tokens"].values.size and column["tokens"].values.max() >= vocabulary:
            return f"has the token {column['tokens'].values.max()} of a vocabulary of {vocabulary}"
        for name in ("head_logprobs", "label_logprob", "entropy"):
            values = column[name].values
            if not np.isfinite(values).all() or (name != "entropy" and values.size and values.max() > 0):
                return f"has values in {name} that are no log-probabilities"
        for ids in (self.head_ids(), self.tail_ids()):
            if ids.size and ids.max() >= vocabulary:
                return f"has an entry for token {ids.max()} of a vocabulary of {vocabulary}"
        return None

    def _wrong_hash(self) -> str | None:
        column = self.columns
        found = row_hashes(*(column[name] for name in ("tokens", "starts", "loss")))
        wrong = np.flatnonzero(found != self.row_hashes)
        return f"has other tokens in row id {self.ids[wrong[0]]} than its hash says" if len(wrong) else None

    def head_ids(self) -> npt.NDArray[np.int64]:
        """The heads' token ids, one position after the other. A full cache has none."""
        if self.shape.full:
            return np.zeros(0, np.int64)
        return from_gaps(self.columns["head_ids"].values, self.columns["heads"].values)

    def tail_ids(self) -> npt.NDArray[np.int64]:
        """The tails' token ids, one position after the other. Within a position, one draw comes after the other."""
        runs = np.repeat(self.columns["tails"].values, self.shape.draws)
        return from_gaps(self.columns["tail_ids"].values, runs)


def to_gaps(ids: npt.NDArray[np.int64], runs: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Each run's first id, then the differences. `runs` has the runs' lengths. Ascending ids give gaps of 0 or more."""
    gaps = np.diff(ids, prepend=0)
    first = _first_places(runs)
    gaps[first] = ids[first]
    return gaps


def from_gaps(gaps: npt.NDArray[Any], runs: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The ids from their gaps: the inverse of `to_gaps`."""
    total = np.cumsum(gaps, dtype=np.int64)
    first, lengths = _first_places(runs), runs[runs > 0].astype(np.int64)
    return np.asarray(total - np.repeat(total[first] - gaps[first], lengths))


def _first_places(runs: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    lengths = runs[runs > 0].astype(np.int64)
    return np.asarray(np.cumsum(lengths) - lengths)


def row_hashes(tokens: Ragged, starts: Ragged, loss: Ragged) -> npt.NDArray[np.uint64]:
    """The hashes uint64 [n] of sequences.

    Each is the first 8 bytes, little-endian, of a 16-byte BLAKE2b over three parts: the token ids, the document starts
    (both uint32, little-endian) and the loss mask (one byte per token). Before each part comes its length (8 bytes).
    """
    rows = zip(_as(tokens, "<u4"), _as(starts, "<u4"), _as(loss, "u1"), strict=True)
    return np.array([short(digest_of(with_lengths(parts))) for parts in rows], np.uint64)


def _as(column: Ragged, dtype: str) -> list[bytes]:
    return [row.astype(dtype).tobytes() for row in column.rows()]
