"""What every kind of cache's manifest has: shards and their names, fingerprints, splits, cost; and their limits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from kdcache.hashing import fingerprint
from kdcache.logits.rows import Rows

MANIFEST = "manifest.json"
MOST_MANIFEST = 16 << 20  # bytes
MOST_SHARDS = 65536  # the manifest of so many shards has about 12 MB
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SHA256 = r"^[0-9a-f]{64}$"


class Record(BaseModel):
    """Base of the manifest's parts: exact types, no unknown keys, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Fingerprints(Record):
    """What the logits were computed from. A cache is used only if all four agree."""

    data: str
    weights: str
    preprocessing: str
    code: str


class Augmentation(Record):
    """How a cache's rows were augmented: each row has `views` views, with seeds derived from `seed` (`view_seed`).

    `description` tells people what the transform is. All three fields are part of the cache's identity.
    """

    views: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**63)
    description: str


class Cost(Record):
    """What computing the logits took."""

    seconds: FiniteFloat = Field(ge=0)
    rows_per_second: FiniteFloat = Field(ge=0)
    device: str
    peak_memory_mb: FiniteFloat | None = Field(default=None, ge=0)
    run: str = ""


class ShardInfo(Record):
    """One shard: its file relative to the cache, its rows, its size and its checksum."""

    file: str
    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=SHA256)


class SplitInfo(Record):
    """One split: its rows and its shards, in the order of writing."""

    rows: int = Field(ge=0)
    shards: list[ShardInfo]


class Layout(Record):
    """Base of a format's header. It decides how rows are stored in a shard, for the writer, the reader and the stream.

    Everything about shards, splits, locks, resuming and verifying is the same for all formats.
    """

    VERSION: ClassVar[int]
    if TYPE_CHECKING:  # fields of every header; each format declares them among its own
        format_version: int
        rows_per_shard: int
        fingerprints: Fingerprints

    @property
    def row_text(self) -> str:
        """A row's size for messages, such as the 3 in `10 rows x 3`."""
        raise NotImplementedError

    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of a shard."""
        raise NotImplementedError

    def encode(self, rows: Any, metadata: dict[str, Any]) -> bytes:
        """A shard's bytes. The same rows give the same bytes."""
        raise NotImplementedError

    def decode(self, table: pa.Table, count: int) -> Rows:
        """The rows of a shard or a row group, as they are stored.

        Raises:
            ValueError: there are not `count` rows, or their columns do not fit each other.
        """
        raise NotImplementedError

    def whole(self, parts: Iterable[Any], count: int) -> Rows:
        """The rows of all pieces together, `count` in all.

        Raises:
            MemoryError: the rows do not fit in memory.
        """
        raise NotImplementedError

    def own_metadata(self) -> dict[str, Any]:
        """The keys that this format adds to every shard's footer."""
        return {}

    def fits(self, rows: int, values: Sequence[int]) -> bool:
        """Whether a row group of `rows` rows can have these numbers of values, one for each leaf of the schema."""
        raise NotImplementedError

    def memory(self, values: Sequence[int]) -> int:
        """Bytes that a row group's values take when they are read."""
        raise NotImplementedError

    def most_bytes(self, rows: int) -> int:
        """An upper bound for the bytes of a shard's file with this many rows."""
        raise NotImplementedError


class Sealed(Layout):
    """A manifest: a header, and the splits, scores, cost and versions that are known at the end."""

    splits: dict[str, SplitInfo] = Field(min_length=1)
    scores: dict[str, dict[str, FiniteFloat]] = Field(default_factory=dict)
    cost: Cost | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Fingerprint of everything that decides the values. Caches share it exactly if they hold the same values."""
        content = self.model_dump(mode="json", exclude={"scores", "cost", "versions"})
        return fingerprint.of_json(content)

    @model_validator(mode="after")
    def _splits_fit(self) -> Self:
        check_shard_count(sum(len(split.shards) for split in self.splits.values()))
        for name, split in self.splits.items():
            _check_split(name, split, self.rows_per_shard)
        unknown = [name for name in self.scores if name not in self.splits]
        if unknown:
            raise ValueError(f"scores for a split that is not there: {unknown}")
        return self


def check_shard_count(count: int) -> None:
    """Refuse more shards than a manifest can list.

    Raises:
        ValueError: there are more than MOST_SHARDS.
    """
    if count > MOST_SHARDS:
        raise ValueError(f"{count:,} shards are more than {MOST_SHARDS:,}; make rows_per_shard larger")


def _check_split(name: str, split: SplitInfo, rows_per_shard: int) -> None:
    if not SPLIT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no split name (letters, digits, '-' and '_')")
    if split.rows != sum(shard.rows for shard in split.shards):
        raise ValueError(f"split {name!r} has {split.rows} rows, its shards have another number")
    for index, shard in enumerate(split.shards):
        if shard.file != shard_file(name, index):  # also keeps paths inside the cache
            raise ValueError(f"shard {index} of split {name!r} must be {shard_file(name, index)!r}")
        if shard.rows != min(rows_per_shard, split.rows - index * rows_per_shard):
            raise ValueError(f"{shard.file} has {shard.rows} rows, which does not fit rows_per_shard")


def shard_file(split: str, index: int) -> str:
    """Name of a shard relative to the cache. Shard k holds the rows written at [k R, (k + 1) R)."""
    return f"{split}/part-{index:05d}.parquet"
