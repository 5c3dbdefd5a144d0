"""Go through splits in ascending order of ids, a row group at a time, to describe or compare caches in little memory.

Shards are usually written in ascending order of ids. Then each row group is the next piece. If the ids of row groups
overlap (the rows were written in another order), the split is read whole and cut into pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kdcache.logits.disk import Group, refuse_duplicates
from kdcache.logits.rows import CachedSplit

PIECE = 65536  # largest piece, in rows, of a split that is read whole


class Grouped(Protocol):
    """The part of a cache that scanning needs. A `LogitCache` has it."""

    @property
    def path(self) -> Path: ...
    def groups(self, split: str) -> list[Group]: ...
    def read_ids(self, group: Group) -> npt.NDArray[np.int64]: ...
    def read_group(self, group: Group) -> CachedSplit: ...
    def split(self, name: str) -> CachedSplit: ...


def by_id(cache: Grouped, split: str) -> Iterator[CachedSplit]:
    """A split's rows in ascending order of ids, in non-empty pieces.

    Raises:
        CacheError: there is no such split, it is damaged, or it has an id twice.
    """
    groups = _in_order(cache, split)
    if groups is None:
        rows = cache.split(split)
        for start in range(0, len(rows.ids), PIECE):
            yield rows.part(slice(start, start + PIECE))
        return
    for group in groups:
        rows = cache.read_group(group)
        if not (rows.ids[1:] > rows.ids[:-1]).all():
            rows = rows.part(np.argsort(rows.ids, kind="stable"))
            refuse_duplicates(cache.path, split, rows.ids)
        yield rows


def _in_order(cache: Grouped, split: str) -> list[Group] | None:
    """The row groups in ascending order of ids; None if their ids overlap."""
    ranges = []
    for group in cache.groups(split):
        ids = cache.read_ids(group)
        ranges.append((int(ids.min()), int(ids.max()), group))
    ranges.sort(key=lambda bounds: bounds[0])
    overlap = any(earlier[1] >= later[0] for earlier, later in pairwise(ranges))
    return None if overlap else [group for _, _, group in ranges]


def in_both(a: Iterator[CachedSplit], b: Iterator[CachedSplit]) -> Iterator[tuple[CachedSplit, CachedSplit]]:
    """The rows whose ids are in both of two splits, as pairs of pieces with the same ids."""
    left, right = next(a, None), next(b, None)
    while left is not None and right is not None:
        last = min(left.ids[-1], right.ids[-1])
        done, gone = (int(np.searchsorted(part.ids, last, side="right")) for part in (left, right))
        ids, first, second = np.intersect1d(
            left.ids[:done], right.ids[:gone], assume_unique=True, return_indices=True
        )
        if len(ids):
            yield left.part(first), right.part(second)
        left = next(a, None) if done == len(left.ids) else left.part(slice(done, None))
        right = next(b, None) if gone == len(right.ids) else right.part(slice(gone, None))


class Reader:
    """Reads a split's rows in ascending order of ids, any number at a time."""

    def __init__(self, pieces: Iterator[CachedSplit]) -> None:
        self._pieces = pieces
        self._rest: CachedSplit | None = None

    def take(self, count: int) -> CachedSplit:
        """The next rows. There are fewer than `count` only at the end."""
        parts: list[CachedSplit] = []
        while count:
            piece = self._rest if self._rest is not None else next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece.part(slice(0, count)))
            self._rest = piece.part(slice(count, None)) if len(piece.ids) > count else None
            count -= len(parts[-1].ids)
        return CachedSplit.joined(parts)
