"""The rows whose logits are to be computed: by split and position, with their hashes and lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError
from kdcache.hashing.containers import TableRows, by_position, has_columns
from kdcache.hashing.content import Column
from kdcache.hashing.rows import hash_rows
from kdcache.logits.options import of_split
from kdcache.logits.records import SPLIT_NAME
from kdcache.logits.writer import as_values


@dataclass(frozen=True)
class Inputs:
    """The data sets to run a model over."""

    splits: Mapping[str, Any]  # sized, and indexable by position
    hashes: Mapping[str, npt.NDArray[np.uint64]]  # [N] for each split
    lengths: Mapping[str, npt.NDArray[Any] | None]  # [N] for each split; None if no lengths were given

    def lengths_at(self, split: str, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any] | None:
        """The lengths [n] of some rows; None if no lengths were given."""
        lengths = self.lengths[split]
        return None if lengths is None else lengths[positions]


def read_inputs(
    path: Path,
    dataset: Any,
    columns: Sequence[Column] | None,
    label: Column | None,
    row_hashes: Any,
    lengths: Any,
) -> Inputs:
    """The rows of a data set, or of several by split, and their hashes.

    Args:
        path: the cache's folder, for the messages.
        dataset, columns, label, row_hashes, lengths: as for `write_logits`.

    Raises:
        CacheError: the data do not give rows by position; or the hashes or lengths do not fit the rows.
    """
    splits = _by_split(path, dataset)
    hashes = {
        name: _row_hashes(path, name, rows, of_split(path, "row_hashes", row_hashes, name), columns, label)
        for name, rows in splits.items()
    }
    known = {
        name: _lengths(path, name, len(rows), of_split(path, "lengths", lengths, name))
        for name, rows in splits.items()
    }
    return Inputs(splits, hashes, known)


def _by_split(path: Path, dataset: Any) -> dict[str, Any]:
    splits = dict(dataset) if isinstance(dataset, Mapping) else {"train": dataset}
    for name in splits:
        if not isinstance(name, str) or not SPLIT_NAME.fullmatch(name):
            raise CacheError(f"{path}: {name!r:.80} is no split name (letters, digits, '-' and '_')")
    if has_columns(splits):
        raise CacheError(
            f"{path}: found a mapping of columns ({', '.join(map(repr, splits))}), expected rows, or splits by name; "
            "make datasets.Dataset.from_dict(data) of it, or a list of rows"
        )
    return {name: _by_position(path, name, rows) for name, rows in splits.items()}


def _by_position(path: Path, split: str, rows: Any) -> Any:
    try:
        return by_position(rows)
    except CacheError as error:
        raise CacheError(f"{path}: split {split!r}: {error}") from None


def _lengths(path: Path, split: str, count: int, given: Any) -> npt.NDArray[Any] | None:
    if given is None:
        return None
    lengths = as_values(f"{path}: split {split!r}", "lengths", given)
    if lengths.shape != (count,) or (count and lengths.dtype.kind not in "iuf"):
        raise CacheError(
            f"{path}: split {split!r}: expected {count} lengths (integers), found {lengths.dtype} "
            f"{list(lengths.shape)}"
        )
    return lengths


def _row_hashes(
    path: Path, split: str, rows: Any, given: Any, columns: Sequence[Column] | None, label: Column | None
) -> npt.NDArray[np.uint64]:
    content = rows.table if isinstance(rows, TableRows) else rows
    if given is None:
        return hash_rows(content, columns, label)
    hashes = as_values(f"{path}: split {split!r}", "row hashes", given)
    if hashes.shape != (len(rows),) or hashes.dtype != np.uint64:
        raise CacheError(
            f"{path}: split {split!r}: expected {len(rows)} row hashes (uint64), found {hashes.dtype} "
            f"{list(hashes.shape)}"
        )
    return hashes
