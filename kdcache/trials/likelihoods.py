"""What a language model's trial keeps of a split: the likelihood of every token, document by document.

There is one Parquet file for each split. Its rows are the prepared task's documents. Each row has `id` and `row_hash`,
and three values for each predicted token: `nll` (nats), `confidence` (the largest probability) and `right` (whether
the most probable token is the right one). The footer has a checksum of the columns. Logits [tokens, V] would be about
a thousand times as large.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdcache.errors import CacheError, KdcacheError
from kdcache.logits.parquet import METADATA_KEY, content_checksum, parquet_bytes
from kdcache.logits.tokens.rows import Ragged
from kdcache.system.files import open_regular, write_atomically
from kdcache.trials.layout import LIKELIHOODS

FORMAT = 1
TYPES = {"nll": pa.float32(), "confidence": pa.float32(), "right": pa.bool_()}
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("row_hash", pa.uint64(), nullable=False),
        *(
            pa.field(name, pa.list_(pa.field("element", kind, nullable=False)), nullable=False)
            for name, kind in TYPES.items()
        ),
    ]
)
ENCODINGS = {"id": "DELTA_BINARY_PACKED", "row_hash": "PLAIN"} | {
    f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ("nll", "confidence")
}
ROWS = 1 << 14  # in a row group


@dataclass(frozen=True)
class Documents:
    """A split's documents [N], and a model's values for each of their predicted tokens."""

    row_hashes: npt.NDArray[np.uint64]
    nll: Ragged
    confidence: Ragged
    right: Ragged

    @property
    def columns(self) -> dict[str, Ragged]:
        return {name: getattr(self, name) for name in TYPES}

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """How many tokens of each document are predicted."""
        return self.nll.lengths

    @property
    def sums(self) -> npt.NDArray[np.float64]:
        """The sum of the tokens' nll for each document, in nats."""
        return np.add.reduceat(self.nll.values.astype(np.float64), self.nll.starts)


def path_of(trial: Path, split: str) -> Path:
    """The path of a trial's file for a split."""
    return trial / LIKELIHOODS / f"{split}.parquet"


def write_documents(path: Path, documents: Documents) -> None:
    """Write a split's file, atomically.

    Raises:
        KdcacheError: it cannot be written.
    """
    ids = np.arange(len(documents.row_hashes), dtype=np.int64)
    lists = [
        pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], np.cumsum(column.lengths)]), pa.int32()),
            pa.array(column.values),
            type=SCHEMA.field(name).type,
        )
        for name, column in documents.columns.items()
    ]
    metadata = {"format": FORMAT, "content": _checksum(ids, documents)}
    columns = [pa.array(ids), pa.array(documents.row_hashes), *lists]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, parquet_bytes(columns, SCHEMA, metadata, ROWS, ENCODINGS))


def read_documents(path: Path, row_hashes: npt.NDArray[np.uint64] | None = None) -> Documents:
    """Read a split's file whole, and check it.

    Args:
        row_hashes: the hashes of the prepared task's rows, in their order; None accepts any rows.

    Raises:
        CacheError: the file is missing or damaged, or it has other documents.
    """
    advice = "run `dvc repro`"
    try:
        # A pipe would block. With a Python file, Arrow's threads sometimes abort the process when it ends.
        with open_regular(path) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            table = parquet.read(use_threads=False)
        said: Mapping[str, Any] = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"null"))
        if not table.schema.equals(SCHEMA):
            raise ValueError("its columns are others")
        ids, documents = table["id"].to_numpy(), _documents(table)
        if said != {"format": FORMAT, "content": _checksum(ids, documents)}:
            raise ValueError("its values are not those of its checksum")
        _check_values(ids, documents)
    except FileNotFoundError:
        raise CacheError(f"{path}: there are no likelihoods; {advice}") from None
    except (KdcacheError, pa.ArrowException, OSError, ValueError, TypeError, RecursionError) as error:
        raise CacheError(f"{path}: is damaged ({error!s:.200}); {advice}") from None
    if row_hashes is not None and not np.array_equal(documents.row_hashes, row_hashes):
        raise CacheError(
            f"{path}: has likelihoods of other documents than the prepared task ({len(ids)}, the task has "
            f"{len(row_hashes)}); {advice}"
        )
    return documents


def checksum_in(path: Path) -> str:
    """The checksum that a split's file says its columns have; only its footer is read.

    Raises:
        CacheError: the file is missing or damaged.
    """
    try:
        with open_regular(path) as file:
            said = json.loads((pq.read_metadata(file).metadata or {}).get(METADATA_KEY, b"null"))
        return str(said["content"])
    except (
        KdcacheError,
        pa.ArrowException,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
    ) as error:
        raise CacheError(f"{path}: is missing or damaged ({error!s:.200}); run `dvc repro`") from None


def _documents(table: pa.Table) -> Documents:
    columns = {}
    for name in TYPES:
        lists = table[name].combine_chunks()
        values = lists.flatten().to_numpy(zero_copy_only=False)
        columns[name] = Ragged(values, pc.list_value_length(lists).to_numpy().astype(np.int64))
    return Documents(table["row_hash"].to_numpy(), **columns)


def _check_values(ids: npt.NDArray[np.int64], documents: Documents) -> None:
    lengths = [column.lengths for column in documents.columns.values()]
    if not np.array_equal(ids, np.arange(len(ids))) or not len(ids):
        raise ValueError("its ids are not 0, 1, 2, ...")
    if any(not np.array_equal(lengths[0], other) for other in lengths[1:]) or lengths[0].min() < 1:
        raise ValueError("its lists are of different lengths, or empty")
    if not (np.isfinite(documents.nll.values).all() and np.isfinite(documents.confidence.values).all()):
        raise ValueError("it has values that are not finite; did training diverge?")


def _checksum(ids: npt.NDArray[np.int64], documents: Documents) -> str:
    parts = [part for column in documents.columns.values() for part in (column.values, column.lengths)]
    return content_checksum(ids, documents.row_hashes, *parts)


def document_difference(split: str, kept: Documents, now: Documents) -> str | None:
    """The first document whose likelihoods differ, in words; None if every bit is the same."""
    if not np.array_equal(kept.row_hashes, now.row_hashes) or not np.array_equal(kept.tokens, now.tokens):
        return f"the likelihoods of {split} are of other documents or tokens now"
    for name, column in kept.columns.items():
        different = np.flatnonzero(column.values != now.columns[name].values)
        if len(different):
            at = different[0]
            row = int(np.searchsorted(column.starts, at, "right")) - 1
            was, became = column.values[at], now.columns[name].values[at]
            return f"{split}, document {row}, token {at - column.starts[row]}: {name} was {was}, it is now {became}"
    return None
