"""Join a teacher's cached logits to the rows they belong to: in a data set, a table, or every batch of a loader.

Rows are recognised by the hash of their content (and by their id, if `id_column` is given), never by their position. So
shuffling, filtering, sharding and repeating change nothing. A row that differs from the cached row is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdcache.errors import CacheError
from kdcache.hashing.columns import content_columns, listed
from kdcache.hashing.containers import are_rows, has_columns, instead_of
from kdcache.hashing.content import Column
from kdcache.hashing.frames import as_table, is_dataset, with_column
from kdcache.hashing.rows import hash_batch, hash_rows
from kdcache.logits.gather import OtherRows
from kdcache.logits.joiner import ID, CachedRows, Ids, Joiner, Logits, Uint64, as_array, names_of

MOST_STORED = 8  # a data set's storage gets the logits' column if it has at most this many times its rows


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
    """The same data with one more column: each row's cached logits.

    With `columns` or `label`, rows are found by their content alone (`kdcache.hashing.rows.hash_row`). Without them,
    rows are found by the hashes in `hash_column`, and a column `id` chooses among rows with the same content.

    Args:
        cache: the open cache.
        data: a `datasets.Dataset`; a table of Arrow, pandas or polars; a list of rows (mappings or tuples); a torch
            data set of such rows; a torch `DataLoader` or any other iterable of batches (mappings from column to n
            values: tensors, arrays or lists). Or a `DatasetDict`, or another mapping from splits to any of these.
        split: the cache's split that the rows come from. Each split of a mapping takes the cache's split with its name.
        column: the name of the new column or key.
        id_column: a column of int64 row ids, as in the cache. Each row must then be the row that was cached under its
            id. None: a column `id` need not hold the cache's ids.
        hash_column: uint64 row hashes (int64 with the same bits is fine, as torch prefers it). None: there are no
            hashes, and the ids (in `id_column`, or `id`) are trusted.
        columns, label: the columns that the hashes in the cache cover. A loader's batches must have them.
        view: for a cache with views, the number of the view that the data's inputs show. If the view changes from
            epoch to epoch, as is usual, use `kdcache.AugmentedDataset`.

    Returns:
        For a `datasets.Dataset` or a table: a copy with one more column, float32 [K]. For a list of rows: a list of
        rows, each with a float32 [K] tensor. For a torch data set: a data set whose rows get the tensor when they are
        read. For a mapping: a mapping with each split joined. Otherwise: an iterable of the same length that can be
        iterated as often as `data`. Its batches have float32 [n, K] tensors on the device of the ids (or, without ids,
        on the device of the batch's first tensor).

    Raises:
        CacheError: the cache has views and `view` is None; the data have the column already; nothing tells which rows
            these are; or a row is not in the cache, or differs from the cached row. With a loader, the error comes with
            the batch and names the batch's number.
    """
    _check_view(cache, view)
    options = (column, id_column, hash_column, columns, label, view)
    if isinstance(data, Mapping) and data and not has_columns(data):
        kind: Any = type(data)  # a DatasetDict stays a DatasetDict
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
        instead = instead_of(data) or (
            "give a datasets.Dataset, a table of Arrow, pandas or polars, a list of rows, a torch data set, a mapping "
            "from splits to any of these, a DataLoader or another iterable of batches"
        )
        raise CacheError(f"{joiner.cache.path}: cannot join logits to a {type(data).__name__}; {instead}")
    return JoinedBatches(data, joiner)


def _has_columns(data: Any) -> bool:
    """Whether this is a data set with columns, so that iterating over it gives no batches."""
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
    """The rows of a torch data set (or anything with a length and an index). Each gets its logits when it is read."""

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
    """The batches of `data`, each with its rows' logits. As long as `data`, and can be iterated as often."""

    def __init__(self, data: Iterable[Any], joiner: Joiner) -> None:
        self.data = data
        self._joiner = joiner

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # a clear TypeError if data has no length

    def __iter__(self) -> Iterator[Any]:
        _refuse_texts_that_are_sent(self._joiner, self.data)
        for index, batch in enumerate(self.data):
            try:
                yield _joined_batch(self._joiner, batch)
            except CacheError as error:
                raise CacheError(f"batch {index}: {error}{self._assumed()}") from None

    def _assumed(self) -> str:
        """What was assumed of a list of mappings: rows whose values are all lists look like batches."""
        if not isinstance(self.data, list | tuple):
            return ""
        return (
            ". A list of mappings that have only lists or arrays is taken for batches; if these are rows, make a table "
            "of them: datasets.Dataset.from_list(rows)"
        )


def _refuse_texts_that_are_sent(joiner: Joiner, loader: Any) -> None:
    """Refuse texts in a stream's batches under Accelerate: its main process sends the batches and can't send texts."""
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
        """A column's values in the data set's order, without the data set's format."""
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
    """A shuffled or filtered data set with one more column. The column is added to the storage.

    `add_column` would rewrite all rows of such a data set in its order, at a few thousand a second.
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
        if table.column_names.count(name) > 1:
            raise CacheError(f"{joiner.cache.path}: there are two columns {name!r}; rename one")
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

    first = rows[0] if len(rows) else []
    with _explaining_float32(joiner, first):
        return joiner.find(names_of(first), values_of, lambda: _hashes(joiner, rows), view)


def _joined_batch(joiner: Joiner, batch: Any) -> Any:
    import torch

    if not isinstance(batch, Mapping):
        raise CacheError(
            f"expected a mapping from column to values, found {type(batch).__name__}; use a collate function "
            "that returns a dictionary with what tells the rows apart"
        )
    with _explaining_float32(joiner, batch):
        logits = joiner.find(
            list(batch), lambda name: as_array(batch[name]), lambda: _batch_hashes(joiner, batch), joiner.view
        )[1]
    joined: Any = copy.copy(batch)  # keeps the type, such as a tokenizer's BatchEncoding
    joined[joiner.column] = torch.from_numpy(logits).to(_device(batch, joiner.id_column))
    return joined


@contextmanager
def _explaining_float32(joiner: Joiner, data: Any) -> Iterator[None]:
    """Say of rows that were not found if the hash covers float32: a data set's torch format makes that of its floats.

    Args:
        data: a batch, or one of the rows.
    """
    try:
        yield
    except OtherRows as error:
        names = names_of(data)
        if not joiner.by_content or not names:
            raise
        hashed = [*content_columns(names, joiner.columns, joiner.label), *listed(joiner.label)]
        columns = ", ".join(repr(name) for name in hashed if _is_float32(data[name]))
        if not columns:
            raise
        raise CacheError(
            f"{error}. These columns hold float32: {columns}. If Python floats (float64) were cached, join the rows "
            "before they are formatted as tensors"
        ) from None


def _is_float32(values: Any) -> bool:
    first = values[0] if isinstance(values, list | tuple) and values else values
    return str(getattr(first, "dtype", "")).endswith("float32")


def _batch_hashes(joiner: Joiner, batch: Mapping[Any, Any]) -> Uint64:
    needed = [*content_columns(batch, joiner.columns, joiner.label), *listed(joiner.label)]
    missing = [name for name in needed if name not in batch]
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
