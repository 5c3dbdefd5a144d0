"""Rows of a split in memory, as the writer, the reader, the stream and the scan use them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class Rows(ABC):
    """Rows of any kind of cache: their ids, their hashes, and the cached values."""

    ids: np.ndarray  # int64 [N]
    row_hashes: np.ndarray  # uint64 [N]

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def part(self, chosen: slice | np.ndarray) -> Self:
        """Some of the rows, by position."""

    @classmethod
    @abstractmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of one or more pieces, copied to new arrays."""

    @classmethod
    def placed(cls, parts: Sequence[Self], positions: np.ndarray) -> Self:
        """The rows of several pieces, row k at position `positions[k]`; `positions`: int64 [N]."""
        order = np.empty_like(positions)
        order[positions] = np.arange(len(positions))
        return cls.joined(parts).part(order)

    def fault(self) -> str | None:
        """What is wrong with the values, as the end of a message that begins with a file's name; None if nothing is."""
        if (self.ids < 0).any():
            return f"has the row id {self.ids.min()}; ids are 0 or more"
        return None

    def as_read(self) -> Self:
        """The stored rows in the form that readers get."""
        return self

    def read_only(self) -> Self:
        """The same rows with read-only arrays."""
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        return self


@dataclass(frozen=True)
class CachedSplit(Rows):
    """Rows of one split in memory: the whole split (`LogitCache.split`, sorted by id, read-only) or a part of it."""

    logits: np.ndarray  # float32 [N, K], or [N, V, K] with V views; in the cache's type while it is written

    def part(self, chosen: slice | np.ndarray) -> CachedSplit:
        return CachedSplit(self.ids[chosen], self.row_hashes[chosen], self.logits[chosen])

    @classmethod
    def joined(cls, parts: Sequence[CachedSplit]) -> CachedSplit:
        return CachedSplit(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.row_hashes for part in parts]),
            np.concatenate([part.logits for part in parts]),
        )

    @classmethod
    def placed(cls, parts: Sequence[CachedSplit], positions: np.ndarray) -> CachedSplit:
        """Does what `Rows.placed` does. Each row is copied straight to its place, so there is no third copy."""
        block = cls.empty(len(positions), parts[0].logits.shape[1:])
        for part in parts:
            targets, positions = positions[: len(part)], positions[len(part) :]
            block.ids[targets], block.row_hashes[targets], block.logits[targets] = (
                part.ids,
                part.row_hashes,
                part.logits,
            )
        return block

    @classmethod
    def empty(cls, count: int, row_shape: tuple[int, ...], dtype: str = "float32") -> CachedSplit:
        """Uninitialised arrays for `count` rows."""
        return cls(
            np.empty(count, np.int64), np.empty(count, np.uint64), np.empty((count, *row_shape), dtype)
        )

    def as_read(self) -> CachedSplit:
        return CachedSplit(self.ids, self.row_hashes, self.logits.astype(np.float32, copy=False))

    def fault(self) -> str | None:
        return super().fault() if np.isfinite(self.logits).all() else "has logits that are not finite"
