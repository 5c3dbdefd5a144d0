"""Rows of a split in memory: what the writer, the reader, the stream and the scan need of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class Rows(ABC):
    """Some rows: their ids, their hashes, and what a cache holds of them."""

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
        """The rows of several pieces, at least one, in arrays of their own."""

    @classmethod
    def placed(cls, parts: Sequence[Self], places: np.ndarray) -> Self:
        """The rows of several pieces, each at its place, int64 [N]."""
        order = np.empty_like(places)
        order[places] = np.arange(len(places))
        return cls.joined(parts).part(order)

    def fault(self) -> str | None:
        """What is wrong with the values, to follow a file's name; None: nothing."""
        if (self.ids < 0).any():
            return f"has the row id {self.ids.min()}; ids are 0 or more"
        return None

    def as_read(self) -> Self:
        """The rows as readers get them, from the rows as they are stored."""
        return self

    def read_only(self) -> Self:
        """The same rows, whose arrays nobody changes by accident."""
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        return self


@dataclass(frozen=True)
class CachedSplit(Rows):
    """Rows of one split in memory: a whole one (`LogitCache.split`, sorted by id, read-only) or a part of it."""

    logits: np.ndarray  # float32 [N, K], or [N, V, K] with V views; on their way to disk in the cache's type

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
    def placed(cls, parts: Sequence[CachedSplit], places: np.ndarray) -> CachedSplit:
        """Each row straight to its place: no third copy."""
        block = cls.empty(len(places), parts[0].logits.shape[1:])
        for part in parts:
            here, places = places[: len(part)], places[len(part) :]
            block.ids[here], block.row_hashes[here], block.logits[here] = (
                part.ids,
                part.row_hashes,
                part.logits,
            )
        return block

    @classmethod
    def empty(cls, count: int, row_shape: tuple[int, ...], dtype: str = "float32") -> CachedSplit:
        """Room for some rows."""
        return cls(
            np.empty(count, np.int64), np.empty(count, np.uint64), np.empty((count, *row_shape), dtype)
        )

    def as_read(self) -> CachedSplit:
        return CachedSplit(self.ids, self.row_hashes, self.logits.astype(np.float32, copy=False))

    def fault(self) -> str | None:
        return super().fault() if np.isfinite(self.logits).all() else "has logits that are not finite"
