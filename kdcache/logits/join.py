"""Put a teacher's cached logits beside the rows they belong to: in a data set, or in every batch of a loader.

Rows are recognised by their id and by the hash of their content, never by where they stand; so shuffling,
filtering, sharding and repeating change nothing. A row that is not the one whose logits were cached is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdcache.errors import CacheError
from kdcache.hashing.columns import is_dataset
from kdcache.hashing.content import Column
from kdcache.hashing.digests import Algorithm
from kdcache.hashing.rows import hash_row, hash_rows

Uint64 = npt.NDArray[np.uint64]


class CachedRows(Protocol):
    """What joining needs of a cache; a `LogitCache` has it."""

    @property
    def path(self) -> Path: ...
    @property
    def views(self) -> int | None: ...
    @property
    def row_hash(self) -> Algorithm: ...
    def check_view(self, view: Any) -> None: ...
    def row_ids_of(self, split: str, row_hashes: Any) -> npt.NDArray[np.int64]: ...
    def logits(
        self, split: str, ids: Any, row_hashes: Any | None = None, view: Any | None = None
    ) -> npt.NDArray[np.float32]: ...


def join(
    cache: CachedRows,
    data: Any,
    split: str = "train",
    *,
    column: str = "teacher_logits",
    id_column: str = "id",
    hash_column: str | None = "row_hash",
    columns: Sequence[str] | None = None,
    label: str | None = None,
    view: int | None = None,
) -> Any:
    """The same data with one column more: each row's cached logits.

    Rows are found by `id_column`; without one, by their content hash. The hash is computed from the content
    (`kdcache.hashing.rows.hash_row`) where `columns` or `label` are given; otherwise it is what `hash_column` holds.
    It is always checked: an id alone does not say whose row it is.

    Args:
        cache: the open cache.
        data: a `datasets.Dataset`, or a torch `DataLoader` or any other iterable of batches (mappings from
            column to n values: tensors, arrays or lists).
        split: the cache's split that the rows come from.
        column: name of the new column or key.
        id_column: int64 row ids, as in the cache.
        hash_column: uint64 row hashes (an int64 tensor with the same bits is fine: torch likes those better).
            None: there are none, and the ids are trusted.
        columns, label: the columns that the hashes in the cache cover. In a loader, batches must have them.
        view: which view's logits, of a cache with views: for data whose inputs are that view's. For the usual case, an
            augmentation that differs from epoch to epoch, there is `views.AugmentedDataset`.

    Returns:
        For a `datasets.Dataset`: the data set with a float32 [K] column. Otherwise: an iterable of the same
        length that can be iterated as often as `data` can; its batches have float32 [n, K] tensors on the
        device of the ids (of the batch's first tensor, where there are no ids).

    Raises:
        CacheError: the cache has views and none is named; the column is already there; there is nothing to tell
            the rows by; a row is not in the cache, or is another row there. With a loader, the batch's number is
            named, and the error comes when that batch does.
    """
    if view is not None:
        cache.check_view(view)
    elif cache.views is not None:
        raise CacheError(
            f"{cache.path}: its logits are of augmented inputs ({cache.views} views of each row), which must not be "
            "joined to rows as they are; kdcache.AugmentedDataset replays the inputs, or name the one view that the "
            "data's inputs are with view="
        )
    joiner = Joiner(cache, split, column, id_column, hash_column, columns, label, view)
    if is_dataset(data):
        return joiner.dataset(data)
    if hasattr(data, "column_names") or not isinstance(data, Iterable):
        raise CacheError(
            f"{cache.path}: cannot join logits to a {type(data).__name__}; give one split as a datasets.Dataset, "
            "a DataLoader or another iterable of batches"
        )
    return JoinedBatches(data, joiner)


class JoinedBatches:
    """The batches of `data`, each with its rows' logits; iterable as often as `data` is, and as long."""

    def __init__(self, data: Iterable[Any], joiner: Joiner) -> None:
        self.data = data
        self._joiner = joiner

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # a TypeError that says so, where data has none

    def __iter__(self) -> Iterator[Any]:
        for index, batch in enumerate(self.data):
            try:
                yield self._joiner.batch(batch)
            except CacheError as error:
                raise CacheError(f"batch {index}: {error}") from None


@dataclass(frozen=True)
class Joiner:
    """How rows are told apart, and where their logits are; the arguments are those of `join`."""

    cache: CachedRows
    split: str
    column: str
    id_column: str
    hash_column: str | None
    columns: Sequence[Column] | None
    label: Column | None
    view: int | None = None

    def dataset(self, data: Any) -> Any:
        from datasets import Features, List, Value

        self._check_free(data.column_names)
        ids = _stored(data, self.id_column) if self.id_column in data.column_names else None
        hashes: Any = None
        if self._of_content():
            hashes = hash_rows(data, self.columns, self.label, self.cache.row_hash)
        elif self.hash_column in data.column_names:
            hashes = _stored(data, self.hash_column)
        logits = self._logits(ids, hashes, data.column_names)
        feature = List(Value("float32"), length=logits.shape[1])
        if not len(data):  # add_column fails on some empty data sets
            features = Features({**data.features, self.column: feature})
            return data.from_dict({name: [] for name in features}, features).with_format(data.format["type"])
        values = pa.FixedSizeListArray.from_arrays(logits.reshape(-1), logits.shape[1])
        return data.add_column(self.column, values, feature=feature)

    def batch(self, batch: Any) -> Any:
        import torch

        if not isinstance(batch, Mapping):
            raise CacheError(
                f"expected a mapping from column to values, found {type(batch).__name__}; use a collate function "
                f"that returns a dictionary with {self.id_column!r}"
            )
        self._check_free(batch)
        ids = _array(batch[self.id_column]) if self.id_column in batch else None
        logits = torch.from_numpy(self._logits(ids, self._batch_hashes(batch), batch))
        joined: Any = copy.copy(batch)  # keeps the type, such as a tokenizer's BatchEncoding
        joined[self.column] = logits.to(_device(batch, self.id_column))
        return joined

    def rows(self, rows: Sequence[Any], view: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The ids int64 [n] of some rows (mappings, tuples or lists), and their logits [n, K] in a view."""
        names = rows[0] if rows and isinstance(rows[0], Mapping) else []
        self._check_free(names)
        ids = _array([row[self.id_column] for row in rows]) if self.id_column in names else None
        hashes: Any = None
        if self._of_content():
            hashes = np.array(
                [hash_row(row, self.columns, self.label, self.cache.row_hash) for row in rows], np.uint64
            )
        elif self.hash_column in names:
            hashes = _array([row[self.hash_column] for row in rows])
        return self._found(ids, hashes, names, view)

    def _check_free(self, names: Iterable[str]) -> None:
        if self.column in names:
            raise CacheError(
                f"{self.cache.path}: there is a column {self.column!r} already; remove it, or name another with column="
            )

    def _batch_hashes(self, batch: Mapping[str, Any]) -> Any:
        if not self._of_content():
            name = self.hash_column
            return None if name is None or name not in batch else _array(batch[name])
        label = [] if self.label is None else [self.label]
        wanted: list[Any] = list(batch) if self.columns is None else [*self.columns, *label]
        missing = [name for name in wanted if name not in batch]
        if missing:
            raise CacheError(
                f"no {missing} in the batch, which has {list(batch)}; the columns that are hashed must be in it"
            )
        rows = zip(*(batch[name] for name in wanted), strict=True)
        named = (dict(zip(wanted, row, strict=True)) for row in rows)
        return np.array(
            [hash_row(row, self.columns, self.label, self.cache.row_hash) for row in named], np.uint64
        )

    def _of_content(self) -> bool:
        return self.columns is not None or self.label is not None

    def _logits(self, ids: Any, hashes: Any, names: Iterable[str]) -> npt.NDArray[np.float32]:
        """float32 [n, K] of the rows with these ids [n] and hashes [n], either of which may be None."""
        return self._found(ids, hashes, names, self.view)[1]

    def _found(
        self, ids: Any, hashes: Any, names: Iterable[str], view: int | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Their ids [n] in the cache, and their logits in a view."""
        if hashes is None and (ids is None or self.hash_column is not None):
            self._refuse_unknown(ids is not None, names)
        bits = None if hashes is None else self._bits(hashes)
        if ids is None:
            ids = self.cache.row_ids_of(self.split, bits)
        return np.asarray(ids), self.cache.logits(self.split, ids, bits, view)

    def _bits(self, hashes: npt.NDArray[Any]) -> Uint64:
        if hashes.dtype.kind not in "iu" and hashes.size:
            raise CacheError(
                f"{self.cache.path}: row hashes must be uint64 [n], found {hashes.dtype} {list(hashes.shape)}"
            )
        return hashes.astype(np.uint64)  # of a negative int64: the same bits

    def _refuse_unknown(self, has_ids: bool, names: Iterable[str]) -> None:
        found = f"found the columns {', '.join(map(repr, names))}"
        if has_ids:
            raise CacheError(
                f"{self.cache.path}: the ids in {self.id_column!r} cannot be checked without row hashes; {found}. "
                f"Keep {self.hash_column!r}, or say with columns= and label= what the hashes cover, or trust the "
                "ids with hash_column=None"
            )
        raise CacheError(
            f"{self.cache.path}: nothing tells which rows these are: expected {self.id_column!r} or "
            f"{self.hash_column!r}, {found}. Say with columns= and label= what the row hashes cover"
        )


def _stored(data: Any, name: str | None) -> npt.NDArray[Any]:
    """A column's own values, in the data set's order, whatever its format makes of them."""
    table = data.select_columns([name]).with_format("arrow")[:]
    return np.asarray(table.column(name).to_numpy())


def _array(values: Any) -> npt.NDArray[Any]:
    """Ids or hashes of a batch as an array; a list of them may hold Python integers or 0-d tensors."""
    if hasattr(values, "detach"):
        return np.asarray(values.detach().cpu().numpy())
    if isinstance(values, Sequence) and not isinstance(values, str):
        values = [value.item() if hasattr(value, "item") else value for value in values]
        if values and all(isinstance(value, int) for value in values) and max(values) >= 2**63:
            return np.array(
                [value % 2**64 for value in values], np.uint64
            )  # NumPy alone would make floats of them
    return np.asarray(values)


def _device(batch: Mapping[str, Any], id_column: str) -> Any:
    import torch

    values = [batch[id_column]] if id_column in batch else batch.values()
    return next((value.device for value in values if isinstance(value, torch.Tensor)), "cpu")
