"""Find the logits of rows: what `join` and `AugmentedDataset` have in common.

If columns or a label are named, rows are found by their content alone. Otherwise they are found by the row hashes in
the data. An id beside a hash only chooses among rows with the same content. Ids alone are trusted only on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError
from kdcache.hashing.columns import no_column
from kdcache.hashing.content import Column
from kdcache.hashing.digests import Algorithm

Uint64: TypeAlias = npt.NDArray[np.uint64]
Ids: TypeAlias = npt.NDArray[np.int64]
Logits: TypeAlias = npt.NDArray[np.float32]
ID, HASH = "id", "row_hash"  # the names in prepared tasks


class CachedRows(Protocol):
    """The part of a cache that joining needs. `Gather` and `LogitCache` have it."""

    @property
    def path(self) -> Path: ...
    @property
    def views(self) -> int | None: ...
    @property
    def row_hash(self) -> Algorithm: ...
    def check_view(self, view: Any) -> None: ...
    def row_ids_of(self, split: str, row_hashes: Any, hints: Any | None = None) -> Ids: ...
    def logits(
        self, split: str, ids: Any, row_hashes: Any | None = None, view: Any | None = None
    ) -> Logits: ...


@dataclass(frozen=True)
class Joiner:
    """The arguments of `join` that say how to tell rows apart."""

    cache: CachedRows
    split: str
    column: str
    id_column: Column | None
    hash_column: Column | None
    columns: Sequence[Column] | None
    label: Column | None
    view: int | None = None

    @property
    def by_content(self) -> bool:
        """Whether the rows' hashes are computed from their content."""
        return self.columns is not None or self.label is not None

    def find(
        self,
        names: Iterable[Column],
        values_of: Callable[[Column], npt.NDArray[Any]],
        hash_content: Callable[[], Uint64],
        view: int | None = None,
    ) -> tuple[Ids, Logits]:
        """The ids [n] of rows in the cache, and their logits [n, K] (in the view).

        Args:
            names: the data's columns.
            values_of: gives the values [n] of a column.
            hash_content: computes the rows' hashes from `columns` and `label`.

        Raises:
            CacheError: a row is not in the cache or differs from the cached row; nothing tells which rows these are; or
                a named column is missing.
        """
        columns = list(names)
        if self.column in columns:
            raise CacheError(
                f"{self.cache.path}: there is a column {self.column!r} already; remove it, or name another with column="
            )
        self._refuse_missing(columns)
        ids = values_of(self.id_column) if self.id_column is not None and self.id_column in columns else None
        hashes = self._hashes(columns, values_of, hash_content)
        if hashes is None and self.hash_column is None and ids is None and ID in columns:
            ids = values_of(ID)  # without hashes the ids are trusted
        if hashes is None and (ids is None or self.hash_column is not None):
            self._refuse_unknown(columns)
        if ids is None:
            ids = self.cache.row_ids_of(self.split, hashes, self._hints(columns, values_of))
        return np.asarray(ids), self.cache.logits(self.split, ids, hashes, view)

    def _refuse_missing(self, names: Sequence[Column]) -> None:
        """Refuse a column that the user named and the data lack. Data without rows may have no names."""
        own_hash = None if self.hash_column == HASH else self.hash_column
        for option, name in (("id_column", self.id_column), ("hash_column", own_hash)):
            if names and name is not None and name not in names:
                raise CacheError(
                    f"{self.cache.path}: {no_column(name, names)}; {option}= must name one of them"
                )

    def _hashes(
        self,
        names: Sequence[Column],
        values_of: Callable[[Column], npt.NDArray[Any]],
        hash_content: Callable[[], Uint64],
    ) -> Uint64 | None:
        if self.by_content:
            return hash_content()
        if self.hash_column is None or self.hash_column not in names:
            return None
        hashes = values_of(self.hash_column)
        if hashes.dtype.kind not in "iu" and hashes.size:
            raise CacheError(
                f"{self.cache.path}: row hashes must be uint64 [n], found {hashes.dtype} {list(hashes.shape)} in the "
                f"column {self.hash_column!r}; if it is one of your own, say with columns= and label= what the row "
                "hashes cover"
            )
        return hashes.astype(np.uint64)  # a negative int64 keeps its bits

    def _hints(
        self, names: Sequence[Column], values_of: Callable[[Column], npt.NDArray[Any]]
    ) -> npt.NDArray[Any] | None:
        """Values of a column `id` that `id_column` does not name. They need not be the cache's ids."""
        if self.by_content or ID not in names:
            return None
        hints = values_of(ID)
        return hints if hints.dtype.kind in "iu" and hints.ndim == 1 else None

    def _refuse_unknown(self, names: Sequence[Column]) -> None:
        has = f"the data have the columns {', '.join(map(repr, names))}"
        id_column = self.id_column or ID
        if id_column in names:
            raise CacheError(
                f"{self.cache.path}: the ids in {id_column!r} cannot be checked without row hashes; {has}. "
                "Say with columns= and label= what the row hashes cover, or trust the ids with hash_column=None"
            )
        raise CacheError(
            f"{self.cache.path}: nothing tells which rows these are: expected row hashes in {self.hash_column!r}; "
            f"{has}. Say with columns= and label= what the row hashes cover"
        )


def as_array(values: Any) -> npt.NDArray[Any]:
    """Ids or hashes of a batch as an array. A list of them may hold Python integers or 0-d tensors."""
    if hasattr(values, "detach"):
        return np.asarray(values.detach().cpu().numpy())
    if isinstance(values, Sequence) and not isinstance(values, str):
        values = [value.item() if hasattr(value, "item") else value for value in values]
        if values and all(isinstance(value, int) for value in values) and max(values) >= 2**63:
            return np.array([value % 2**64 for value in values], np.uint64)  # NumPy alone would give floats
    return np.asarray(values)


def names_of(row: Any) -> Sequence[Column]:
    """The columns of a row: its keys, or its positions if it is a tuple or list."""
    if isinstance(row, Mapping):
        return list(row)
    return list(range(len(row))) if isinstance(row, tuple | list) else []
