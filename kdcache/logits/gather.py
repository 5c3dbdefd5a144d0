"""Logits by row id, in any order, from splits in memory. Row hashes check that each row is the right one."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from kdcache.errors import CacheError
from kdcache.hashing.digests import Algorithm
from kdcache.logits.disk import ShardedCache
from kdcache.logits.format import Manifest
from kdcache.logits.rows import CachedSplit


class OtherRows(CacheError):
    """Rows are not in the cache, or differ from those that were cached under their ids."""


class Gather:
    """The splits of a cache in memory. Each is read when it is first needed."""

    def __init__(self, disk: ShardedCache[Manifest, CachedSplit]) -> None:
        self._disk = disk
        self._loaded: dict[str, _Loaded] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: without the splits, which they can read again."""
        return {**self.__dict__, "_loaded": {}}

    @property
    def path(self) -> Path:
        return self._disk.path

    @property
    def row_hash(self) -> Algorithm:
        """The algorithm of the row hashes."""
        return self._disk.manifest.row_hash

    @property
    def views(self) -> int | None:
        """V, the number of augmented views of each row; None if the rows were not augmented."""
        augmentation = self._disk.manifest.augmentation
        return augmentation.views if augmentation else None

    def logits(
        self, split: str, ids: Any, row_hashes: Any | None = None, view: Any | None = None
    ) -> np.ndarray:
        """The logits of the given rows, in the given order. The first call reads the split into memory.

        Args:
            split: e.g. "train".
            ids: integers [n] (array, list or tensor), in any order, repeats allowed. All must be in the cache.
            row_hashes: uint64 [n], the hashes of the caller's rows with these ids. They are checked if given.
                int64 counts as the same 64 bits (data sets and tensors often have no uint64).
            view: for a cache with views: the view's number, one for all rows or one for each row [n]. None: all views.

        Returns:
            float32 [n, K], a copy; [n, V, K] from a cache with views if no view is named.

        Raises:
            CacheError: an id is not in the cache, the logits under an id were cached for another row, or there is no
                such view.
        """
        loaded = self._load_once(split)
        ids = self._integers("ids", ids)
        positions = self._positions(split, loaded, ids)
        if row_hashes is not None:
            self._check_hashes(split, ids, row_hashes, loaded.rows.row_hashes.take(positions))
        if view is None:
            gathered: np.ndarray = loaded.rows.logits.take(positions, axis=0)
            return gathered
        chosen: np.ndarray = loaded.rows.logits[positions, self._checked_views(view, len(ids))]
        return chosen

    def row_ids_of(self, split: str, row_hashes: Any, hints: Any | None = None) -> np.ndarray:
        """The ids of rows with these hashes, for data that were shuffled or filtered and lost their ids.

        Args:
            split: e.g. "train".
            row_hashes: uint64 [n] (or the same bits as int64), in any order, repeats allowed.
            hints: integers [n], ids that the rows may have. A hint is ignored if its row has other content.

        Returns:
            int64 [n]. If several rows have the same content: the hint, or without a hint the lowest of their ids.

        Raises:
            CacheError: a hash is not in the cache.
        """
        loaded = self._load_once(split)
        asked = self._integers("row hashes", row_hashes).astype(np.uint64)
        hashes, ids = loaded.by_hash
        positions = np.searchsorted(hashes, asked)  # the first of equal hashes, which has the lowest id
        missing = np.ones(len(asked), dtype=bool)
        inside = positions < len(hashes)
        missing[inside] = hashes[positions[inside]] != asked[inside]
        if missing.any():
            first = int(np.argmax(missing))
            named = "" if hints is None else f", its id {hints[first]}"
            raise OtherRows(
                f"{self.path}: split {split!r} has no row with the hash {int(asked[first]):016x} (position "
                f"{first}{named}) and {int(missing.sum()) - 1} more of the {len(asked)} asked rows; "
                "the content differs from what was cached: give the columns= and label= that it was cached with, "
                "or cache the logits of this data"
            )
        by_content = ids[positions]
        return (
            by_content
            if hints is None
            else self._preferring(loaded, self._integers("ids", hints), asked, by_content)
        )

    def _preferring(
        self, loaded: _Loaded, hints: np.ndarray, row_hashes: np.ndarray, ids: np.ndarray
    ) -> np.ndarray:
        """Each row's hint if the hint's row has this row's hash, else its id."""
        known = loaded.rows.ids
        positions = np.minimum(np.searchsorted(known, hints), max(len(known) - 1, 0))
        if not len(hints):
            return ids
        right = (known[positions] == hints) & (loaded.rows.row_hashes[positions] == row_hashes)
        return np.where(right, known[positions], ids)

    def split(self, name: str) -> CachedSplit:
        """A whole split in memory, sorted by id. It is read once, then kept."""
        return self._load_once(name).rows

    def check_view(self, view: Any) -> None:
        """Refuse a view that the cache does not have.

        Raises:
            CacheError: there is no such view. The message says which views there are.
        """
        self._checked_views(view, 1)

    def _load_once(self, name: str) -> _Loaded:
        if name not in self._loaded:
            self._loaded[name] = _Loaded(self._disk.load(name))
        return self._loaded[name]

    def _integers(self, name: str, values: Any) -> np.ndarray:
        """Arrays, lists and tensors as an array of integers [n]."""
        try:
            array: np.ndarray = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
        except (TypeError, ValueError) as error:
            raise CacheError(f"{self.path}: {name} must be integers [n]: {error}") from error
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise CacheError(
                f"{self.path}: {name} must be integers [n], found {array.dtype} {list(array.shape)}"
            )
        return array

    def _checked_views(self, view: Any, rows: int) -> np.ndarray:
        """The view of each row, integers [] or [rows]."""
        if self.views is None:
            raise CacheError(
                f"{self.path}: has no views, its logits are of the rows as they are; leave out view={view!r:.80}"
            )
        views: np.ndarray = np.asarray(view.cpu() if hasattr(view, "cpu") else view)
        if views.shape not in ((), (rows,)) or (views.size and views.dtype.kind not in "iu"):
            raise CacheError(
                f"{self.path}: expected one view, or one for each of the {rows} rows, found {views.dtype} "
                f"{list(views.shape)}"
            )
        wrong = (views < 0) | (views >= self.views)
        if wrong.any():
            raise CacheError(
                f"{self.path}: no view {views[wrong].flat[0]} in this cache, which has {self.views} of each row "
                f"(0 to {self.views - 1})"
            )
        return views

    def _positions(self, split: str, loaded: _Loaded, asked: np.ndarray) -> np.ndarray:
        ids, known = asked.astype(np.int64), loaded.rows.ids
        if loaded.dense:
            if not ids.size or int(ids.view(np.uint64).max()) < len(known):  # negative ids become huge here
                return ids
            missing = (ids < 0) | (ids >= len(known))
        else:
            positions = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            missing = known[positions] != ids if len(known) else np.ones(len(ids), dtype=bool)
            if not missing.any():
                return positions
        raise CacheError(
            f"{self.path}: split {split!r} has no logits for row id {asked[missing][0]} and "
            f"{int(missing.sum()) - 1} more of the {len(ids)} asked rows; cache the logits of this data"
        )

    def _check_hashes(self, split: str, ids: np.ndarray, row_hashes: Any, cached: np.ndarray) -> None:
        expected = self._integers("row hashes", row_hashes)
        if expected.shape != ids.shape:
            raise CacheError(
                f"{self.path}: expected {len(ids)} row hashes (uint64), found {expected.dtype} "
                f"{list(expected.shape)}"
            )
        expected = expected.astype(np.uint64, copy=False)
        different = expected != cached
        if different.any():
            self._refuse_rows(split, ids, expected, cached, different)

    def _refuse_rows(
        self, split: str, ids: np.ndarray, expected: np.ndarray, cached: np.ndarray, different: np.ndarray
    ) -> NoReturn:
        first = int(np.argmax(different))
        raise OtherRows(
            f"{self.path}: split {split!r}, row id {ids[first]}: the logits were cached for another row: "
            f"expected row hash {int(expected[first]):016x}, found {int(cached[first]):016x} "
            f"({int(different.sum())} of {len(ids)} asked rows differ); the data changed or its ids were "
            "shuffled, cache the logits again"
        )


class _Loaded:
    """A split in memory, with what makes look-ups fast."""

    def __init__(self, rows: CachedSplit) -> None:
        self.rows = rows
        ids = rows.ids  # sorted and distinct: if they are 0 .. N-1, an id is a position
        self.dense = len(ids) > 0 and int(ids[0]) == 0 and int(ids[-1]) == len(ids) - 1

    @cached_property
    def by_hash(self) -> tuple[np.ndarray, np.ndarray]:
        """(sorted row hashes, their ids). The ids of equal hashes are ascending."""
        order = np.argsort(self.rows.row_hashes, kind="stable")
        return self.rows.row_hashes[order], self.rows.ids[order]
