"""Put a teacher's cached logits beside the rows they belong to: in a data set, a table, or every batch of a loader.

Rows are recognised by the hash of their content (and their id, where that is named), never by where they stand; so
shuffling, filtering, sharding and repeating change nothing. A row that is not the one that was cached is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdcache.errors import CacheError
from kdcache.hashing.columns import content_columns, listed
from kdcache.hashing.containers import are_rows, has_columns
from kdcache.hashing.content import Column
from kdcache.hashing.frames import as_table, is_dataset, with_column
from kdcache.hashing.rows import hash_batch, hash_rows
from kdcache.logits.joiner import ID, CachedRows, Ids, Joiner, Logits, Uint64, as_array, names_of

MOST_STORED = 8  # times as many rows as a data set may its storage have, to get the logits' column itself


def join(
    cache: CachedRows,
    data: Any,
    split: str = "train",
    *,
    column: str = "teacher_logits",
    id_column: Column | None = None,
    hash_column: Column | None = "row_hash",
    columns: Sequence[Column] | None = None,
    label: Column | None = None,
    view: int | None = None,
) -> Any:
    """The same data with one column more: each row's cached logits.

    With `columns` or `label` the content alone decides (`kdcache.hashing.rows.hash_row`). Without them the hashes in
    `hash_column` decide, and an `id` beside them chooses among rows of the same content.

    Args:
        cache: the open cache.
        data: a `datasets.Dataset`; a table of Arrow, pandas or polars; a list of rows (mappings or tuples); a torch
            data set of such rows; a torch `DataLoader` or any other iterable of batches (mappings from column to n
            values: tensors, arrays or lists). Or a `DatasetDict`, or another mapping from splits to any of these.
        split: the cache's split that the rows come from. Of a mapping each split is the cache's of the same name.
        column: name of the new column or key.
        id_column: a column of int64 row ids, as in the cache; then each row must be the one that was cached under its
            id. None: a column `id` is one of your own.
        hash_column: uint64 row hashes (an int64 tensor with the same bits is fine: torch likes those better).
            None: there are none, and the ids (in `id_column`, or `id`) are trusted.
        columns, label: the columns that the hashes in the cache cover. In a loader, batches must have them.
        view: which view's logits, of a cache with views: for data whose inputs are that view's. For the usual case, an
            augmentation that differs from epoch to epoch, there is `kdcache.AugmentedDataset`.

    Returns:
        For a `datasets.Dataset` or a table: one with a float32 [K] column more. For a list of rows: a list of rows,
        each with a float32 [K] tensor. For a torch data set: one whose rows have it when they are read. For a mapping:
        one with each split joined. Otherwise: an iterable of the same length that can be iterated as often as
        `data` can; its batches have float32 [n, K] tensors on the device of the ids (of the batch's first tensor,
        where there are no ids).

    Raises:
        CacheError: the cache has views and none is named; the column is already there; there is nothing to tell
            the rows by; a row is not in the cache, or is another row there. With a loader, the batch's number is
            named, and the error comes when that batch does.
    """
    _check_view(cache, view)
    options = (column, id_column, hash_column, columns, label, view)
    if isinstance(data, Mapping) and data and not has_columns(data):
        kind: Any = type(data)  # a DatasetDict stays one
        return kind({name: _joined(Joiner(cache, name, *options), rows) for name, rows in data.items()})
    return _joined(Joiner(cache, split, *options), data)


def _joined(joiner: Joiner, data: Any) -> Any:
    if is_dataset(data):
        return _joined_dataset(joiner, data)
    table = as_table(data)
    if table is not None:
        return with_column(data, joiner.column, _as_lists(_find_in_table(joiner, table)))
    if are_rows(data):
        return _joined_rows(joiner, data) if isinstance(data, list | tuple) else JoinedRows(data, joiner)
    if _has_columns(data) or not isinstance(data, Iterable):
        raise CacheError(
            f"{joiner.cache.path}: cannot join logits to a {type(data).__name__}; give a datasets.Dataset, a table of "
            "Arrow, pandas or polars, a list of rows, a torch data set, a mapping from splits to any of these, a "
            "DataLoader or another iterable of batches"
        )
    return JoinedBatches(data, joiner)


def _has_columns(data: Any) -> bool:
    """Whether it is some whole data set, of which iterating gives no batches."""
    return (
        hasattr(data, "column_names") or hasattr(data, "columns") or isinstance(data, Mapping | str | bytes)
    )


def _check_view(cache: CachedRows, view: int | None) -> None:
    if view is not None:
        cache.check_view(view)
    elif cache.views is not None:
        raise CacheError(
            f"{cache.path}: its logits are of augmented inputs ({cache.views} views of each row), which must not be "
            "joined to rows as they are; kdcache.AugmentedDataset replays the inputs, or name the one view that the "
            "data's inputs are with view="
        )


class JoinedRows:
    """The rows of a torch data set (or any with a length and an index), each with its logits; read when asked for."""

    def __init__(self, data: Any, joiner: Joiner) -> None:
        import torch

        self.data = data
        self._column = joiner.column
        self._logits = torch.from_numpy(find_rows(joiner, data, joiner.view)[1])

    def __len__(self) -> int:
        return len(self._logits)

    def __getitem__(self, position: int) -> Any:
        return _with_logits(self.data[position], self._column, self._logits[position])


class JoinedBatches:
    """The batches of `data`, each with its rows' logits; iterable as often as `data` is, and as long."""

    def __init__(self, data: Iterable[Any], joiner: Joiner) -> None:
        self.data = data
        self._joiner = joiner

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # a TypeError that says so, where data has none

    def __iter__(self) -> Iterator[Any]:
        _refuse_texts_that_are_sent(self._joiner, self.data)
        for index, batch in enumerate(self.data):
            try:
                yield _joined_batch(self._joiner, batch)
            except CacheError as error:
                raise CacheError(f"batch {index}: {error}") from None


def _refuse_texts_that_are_sent(joiner: Joiner, loader: Any) -> None:
    """Of a stream, Accelerate's main process reads the batches and sends them to the others; it can't send texts."""
    features = getattr(getattr(loader, "dataset", None), "features", None)
    if type(loader).__name__ != "DataLoaderDispatcher" or not features or loader.state.num_processes == 1:
        return
    texts = [
        name
        for name, feature in features.items()
        if getattr(feature, "dtype", "") in ("string", "large_string")
    ]
    if texts:
        raise CacheError(
            f"{joiner.cache.path}: Accelerate sends a stream's batches from process to process, and cannot send the "
            f"texts in {', '.join(map(repr, texts))}; let each process read its own: "
            "Accelerator(dataloader_config=DataLoaderConfiguration(dispatch_batches=False))"
        )


def _joined_dataset(joiner: Joiner, data: Any) -> Any:
    from datasets import Features, List, Value

    def values_of(name: Column) -> npt.NDArray[Any]:
        """A column's own values, in the data set's order, whatever its format makes of them."""
        table = data.select_columns([name]).with_format("arrow")[:]
        return np.asarray(table.column(name).to_numpy())

    logits = joiner.find(data.column_names, values_of, lambda: _hashes(joiner, data), joiner.view)[1]
    feature = List(Value("float32"), length=logits.shape[1])
    if not len(data):  # add_column fails on some empty data sets
        features = Features({**data.features, joiner.column: feature})
        return data.from_dict({name: [] for name in features}, features).with_format(data.format["type"])
    numbers = data._indices
    if numbers is None or data.data.num_rows > MOST_STORED * len(data):
        return data.add_column(joiner.column, _as_lists(logits), feature=feature)
    return _with_stored_column(data, numbers.column(0).to_numpy(), joiner.column, logits, feature)


def _with_stored_column(
    data: Any, numbers: npt.NDArray[np.int64], column: str, logits: Logits, feature: Any
) -> Any:
    """A shuffled or filtered data set with a column more, in its storage.

    `add_column` writes all rows of such a data set again in its order, some thousand a second.
    """
    stored = copy.copy(data)
    stored._indices = None
    values = np.zeros((len(stored), logits.shape[1]), np.float32)
    values[numbers] = logits
    chosen = np.zeros(len(stored), bool)
    chosen[numbers] = True
    lists = pa.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1], mask=pa.array(~chosen))
    return stored.add_column(column, lists, feature=feature).select(numbers)


def _find_in_table(joiner: Joiner, table: pa.Table) -> Logits:
    def values_of(name: Column) -> npt.NDArray[Any]:
        return np.asarray(table.column(name).to_numpy())

    return joiner.find(table.column_names, values_of, lambda: _hashes(joiner, table), joiner.view)[1]


def _hashes(joiner: Joiner, data: Any) -> Uint64:
    return hash_rows(data, joiner.columns, joiner.label, joiner.cache.row_hash)


def _as_lists(logits: Logits) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(logits.reshape(-1), logits.shape[1])


def _joined_rows(joiner: Joiner, rows: Sequence[Any]) -> list[Any]:
    import torch

    logits = find_rows(joiner, rows, joiner.view)[1]
    pairs = zip(rows, torch.from_numpy(logits), strict=True)
    return [_with_logits(row, joiner.column, values) for row, values in pairs]


def _with_logits(row: Any, column: str, logits: Any) -> Any:
    return {**row, column: logits} if isinstance(row, Mapping) else (*row, logits)


def find_rows(joiner: Joiner, rows: Sequence[Any], view: int | None) -> tuple[Ids, Logits]:
    """The ids int64 [n] of some rows (mappings, tuples or lists), and their logits [n, K] in a view."""

    def values_of(name: Column) -> npt.NDArray[Any]:
        try:
            return as_array([rows[k][name] for k in range(len(rows))])  # torch data sets need not be iterable
        except (LookupError, TypeError) as error:
            raise CacheError(f"{joiner.cache.path}: a row has no {name!r} ({error})") from None

    names = names_of(rows[0]) if len(rows) else []
    return joiner.find(names, values_of, lambda: _hashes(joiner, rows), view)


def _joined_batch(joiner: Joiner, batch: Any) -> Any:
    import torch

    if not isinstance(batch, Mapping):
        raise CacheError(
            f"expected a mapping from column to values, found {type(batch).__name__}; use a collate function "
            "that returns a dictionary with what tells the rows apart"
        )
    logits = joiner.find(
        list(batch), lambda name: as_array(batch[name]), lambda: _batch_hashes(joiner, batch), joiner.view
    )[1]
    joined: Any = copy.copy(batch)  # keeps the type, such as a tokenizer's BatchEncoding
    joined[joiner.column] = torch.from_numpy(logits).to(_device(batch, joiner.id_column))
    return joined


def _batch_hashes(joiner: Joiner, batch: Mapping[Any, Any]) -> Uint64:
    wanted = [*content_columns(batch, joiner.columns, joiner.label), *listed(joiner.label)]
    missing = [name for name in wanted if name not in batch]
    if missing:
        raise CacheError(
            f"no {missing} in the batch, which has {list(batch)}; the columns that are hashed must be in it"
        )
    return hash_batch(batch, joiner.columns, joiner.label, joiner.cache.row_hash)


def _device(batch: Mapping[Any, Any], id_column: Column | None) -> Any:
    import torch

    ids = batch.get(ID if id_column is None else id_column)
    values = batch.values() if ids is None else [ids]
    return next((value.device for value in values if isinstance(value, torch.Tensor)), "cpu")
