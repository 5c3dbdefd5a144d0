"""The token cache's format, version 2: a row is a packed sequence, with a sparse distribution at every position.

The parts shared with version 1 (shards, manifest, checksums) are in the folder above. docs/token-caches.md describes
the format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, FiniteFloat, model_validator

from kdcache.errors import CacheError
from kdcache.hashing.digests import BLAKE2B, Algorithm
from kdcache.logits.parquet import content_checksum, parquet_bytes
from kdcache.logits.records import Fingerprints, Layout, Record, Sealed
from kdcache.logits.tokens.estimators import Estimator, Full, estimator_of
from kdcache.logits.tokens.rows import Growing, Ragged, Shape, TokenRows

FORMAT_VERSION = 2
GROUP_POSITIONS = 65536  # positions of a row group: a few MiB
GROUP_VALUES = 4 << 20  # values of a full cache's row group
SPLIT_BYTES = (
    "head_ids",
    "tail_ids",
    "head_logprobs",
    "label_logprob",
    "entropy",
    "heads",
    "tails",
    "tokens",
)
Numbers = str | int | float


class Vocabulary(Record):
    """The vocabulary of the token ids."""

    size: int = Field(ge=1, lt=2**31)  # V: the distributions are over this many tokens
    tokenizer: str | None = None  # the tokenizer's fingerprint, if known
    outputs: int = Field(ge=1)  # the teacher's outputs; those from V on were cut off before the softmax


class TokenHeader(Layout):
    """The part of the manifest that is fixed before the first row is written; it is the same for every shard."""

    VERSION: ClassVar[int] = FORMAT_VERSION
    format_version: Literal[2] = 2
    kind: Literal["tokens"] = "tokens"
    vocabulary: Vocabulary
    estimator: dict[str, Numbers]
    temperature: FiniteFloat = Field(gt=0)
    predicts: Literal["next"] = "next"  # position j holds the distribution of token j + 1
    rows_per_shard: int = Field(ge=1)
    fingerprints: Fingerprints
    row_hash: Algorithm = BLAKE2B

    @model_validator(mode="after")
    def _estimator_is_one(self) -> Self:
        try:
            estimator_of(self.estimator)
        except CacheError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def how(self) -> Estimator:
        """The estimator."""
        return estimator_of(self.estimator)

    @property
    def shape(self) -> Shape:
        """The values that decide which lengths of columns fit together."""
        how = self.how
        return Shape(self.vocabulary.size, how.draws, isinstance(how, Full))

    @property
    def row_text(self) -> str:
        return "their tokens"

    def columns(self) -> dict[str, np.dtype[Any]]:
        """The type of each list's elements, by column."""
        token = np.dtype(np.uint16 if self.vocabulary.size <= 1 << 16 else np.uint32)
        count = np.min_scalar_type(self.how.most(self.vocabulary.size))
        number = np.dtype(np.float32)
        return {
            "tokens": token,
            "starts": np.dtype(np.uint32),
            "loss": np.dtype(np.bool_),
            "heads": count,
            "tails": count,
            "head_ids": token,
            "head_logprobs": number,
            "tail_ids": token,
            "label_logprob": number,
            "entropy": number,
        }

    def arrow_schema(self) -> pa.Schema:
        lists = [
            pa.field(
                name,
                pa.list_(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False)),
                nullable=False,
            )
            for name, dtype in self.columns().items()
        ]
        first = [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("row_hash", pa.uint64(), nullable=False),
        ]
        return pa.schema([*first, *lists])

    def encode(self, rows: TokenRows, metadata: dict[str, Any]) -> bytes:
        schema = self.arrow_schema()
        arrays = [
            pa.ListArray.from_arrays(
                pa.array(np.concatenate([[0], np.cumsum(column.lengths)]), pa.int32()),
                pa.array(column.values),
                type=schema.field(name).type,
            )
            for name, column in rows.columns.items()
        ]
        parts = [part for column in rows.columns.values() for part in (column.values, column.lengths)]
        metadata = {**metadata, "content": content_checksum(rows.ids, rows.row_hashes, *parts)}
        encodings = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in SPLIT_BYTES}
        encodings |= {"id": "DELTA_BINARY_PACKED", "row_hash": "PLAIN"}
        columns = [pa.array(rows.ids), pa.array(rows.row_hashes), *arrays]
        return parquet_bytes(columns, schema, metadata, _group_rows(rows), encodings)

    def decode(self, table: pa.Table, count: int) -> TokenRows:
        columns = {}
        for name in self.columns():
            lists = table[name].combine_chunks()
            values = lists.flatten().to_numpy(zero_copy_only=False)
            columns[name] = Ragged(values, pc.list_value_length(lists).to_numpy().astype(np.int64))
        rows = TokenRows(table["id"].to_numpy(), table["row_hash"].to_numpy(), self.shape, columns)
        if len(rows) != count or any(len(column.lengths) != count for column in columns.values()):
            raise ValueError("its columns are not what its footer says")
        misfit = rows.misfit()
        if misfit:
            raise ValueError(misfit)
        return rows

    def empty(self) -> TokenRows:
        """No rows."""
        none = np.zeros(0, np.int64)
        columns = {name: Ragged(np.zeros(0, dtype), none) for name, dtype in self.columns().items()}
        return TokenRows(none, np.zeros(0, np.uint64), self.shape, columns)

    def whole(self, parts: Iterable[TokenRows], count: int) -> TokenRows:
        ids, hashes = Growing(np.int64), Growing(np.uint64)
        grown = {name: (Growing(dtype), Growing(np.int64)) for name, dtype in self.columns().items()}
        for part in parts:
            ids.add(part.ids)
            hashes.add(part.row_hashes)
            for name, (values, lengths) in grown.items():
                values.add(part.columns[name].values)
                lengths.add(part.columns[name].lengths)
            del part  # so that one part at a time is in memory beside the whole
        columns = {name: Ragged(*(column.whole() for column in pair)) for name, pair in grown.items()}
        return TokenRows(ids.whole(), hashes.whole(), self.shape, columns)

    def own_metadata(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "vocabulary": self.vocabulary.model_dump(),
            "estimator": self.estimator,
            "temperature": self.temperature,
            "predicts": self.predicts,
        }

    def fits(self, rows: int, values: Sequence[int]) -> bool:
        return list(values[:2]) == [rows, rows] and all(count >= rows for count in values[2:])

    def memory(self, values: Sequence[int]) -> int:
        sizes = [8, 8, *(dtype.itemsize for dtype in self.columns().values())]
        return sum(count * size for count, size in zip(values, sizes, strict=True))

    def most_bytes(self, rows: int) -> int:
        return 1 << 40  # a sequence may have any length


class TokenManifest(Sealed, TokenHeader):
    """manifest.json, without the `checksum` that protects it."""


def _group_rows(rows: TokenRows) -> int:
    """The number of rows of a row group, from the rows' average size."""
    count = max(len(rows), 1)
    positions = max(int(rows.columns["tokens"].lengths.sum()) // count, 1)
    values = max(int(rows.columns["head_logprobs"].lengths.sum()) // count, 1) if rows.shape.full else 1
    return max(min(GROUP_POSITIONS // positions, GROUP_VALUES // values), 1)
