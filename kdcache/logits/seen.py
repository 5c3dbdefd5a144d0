"""The row ids seen so far, to refuse an id that comes twice."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

BITMAP_IDS = 1 << 28  # smaller ids are kept in a bitmap, larger (unusual) ids in a set


@dataclass
class SeenIds:
    """The ids of a split so far: a bitmap, because ids are usually row positions, and a set for very large ids."""

    bitmap: np.ndarray = field(default_factory=lambda: np.zeros(1024, dtype=bool))
    large: set[int] = field(default_factory=set)

    def add(self, ids: np.ndarray) -> int | None:
        """Remember the ids and return None; or, if an id is repeated, return that id and remember none of them."""
        distinct, counts = np.unique(ids, return_counts=True)
        if len(distinct) != len(ids):
            return int(distinct[counts > 1][0])
        small = distinct[distinct < BITMAP_IDS]
        large = distinct[len(small) :].tolist()
        self._grow(int(small[-1]) + 1 if len(small) else 0)
        known = small[self.bitmap[small]].tolist() + [value for value in large if value in self.large]
        if known:
            return int(known[0])
        self.bitmap[small] = True
        self.large.update(large)
        return None

    def _grow(self, size: int) -> None:
        if size > len(self.bitmap):
            bitmap = np.zeros(min(2 * size, BITMAP_IDS), dtype=bool)
            bitmap[: len(self.bitmap)] = self.bitmap
            self.bitmap = bitmap
