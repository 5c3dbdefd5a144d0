"""A complete token cache, open for reading: batches by row id, by the sequences themselves, or as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError
from kdcache.logits.cost import read_cost
from kdcache.logits.disk import Group, ShardedCache, Verification
from kdcache.logits.records import Cost, Fingerprints
from kdcache.logits.stream import LogitStream
from kdcache.logits.tokens.batch import TokenBatch, batch_of
from kdcache.logits.tokens.format import TokenManifest
from kdcache.logits.tokens.inputs import read_sequences
from kdcache.logits.tokens.rows import TokenRows
from kdcache.system.files import user_path


class TokenCache:
    """A complete token cache, open for reading.

    Args:
        path: the cache's folder.
        expect: the fingerprints that the distributions must come from; None accepts any.

    Raises:
        CacheError: the cache is incomplete, damaged, of another format, or not the expected cache. The methods raise
            the same error if they find a damaged shard later.
    """

    def __init__(self, path: str | Path, expect: Fingerprints | None = None) -> None:
        self._disk: ShardedCache[TokenManifest, TokenRows] = ShardedCache(
            user_path(path), TokenManifest, expect
        )
        self._loaded: dict[str, _Loaded] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: without the splits, which they can read again."""
        return {**self.__dict__, "_loaded": {}}

    @property
    def path(self) -> Path:
        """The cache's folder."""
        return self._disk.path

    @property
    def manifest(self) -> TokenManifest:
        """The content of manifest.json."""
        return self._disk.manifest

    @property
    def identity(self) -> str:
        """Fingerprint of everything that decides the distributions."""
        return self.manifest.identity

    @property
    def splits(self) -> list[str]:
        """The names of the splits, in the order of writing."""
        return list(self.manifest.splits)

    @property
    def cost(self) -> Cost | None:
        """What computing the cache took; None if that is not known."""
        return read_cost(self.path) or self.manifest.cost

    def split(self, name: str) -> TokenRows:
        """A whole split in memory as it is stored, sorted by id. It is read once, then kept."""
        return self._load(name).rows

    def groups(self, split: str) -> list[Group]:
        """The row groups of a split, in the order of writing."""
        return self._disk.groups(split)

    def read_group(self, group: Group) -> TokenRows:
        """The rows of one row group, in the order of writing. No other rows of the split are in memory."""
        return self._disk.read_group(group)

    def batch(self, ids: Any, split: str = "train", *, epoch: int = 0) -> TokenBatch:
        """The sequences with these ids and their targets. The first call reads the split into memory.

        Args:
            ids: integers [n], in any order, repeats allowed.
            epoch: an integer of 0 or more; selects draw `epoch` modulo the cache's draws.

        Raises:
            CacheError: an id is not in the cache, or `epoch` is no such integer.
        """
        self.check_epoch(epoch)
        loaded = self._load(split)
        asked = np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids)
        if asked.ndim != 1 or (asked.size and asked.dtype.kind not in "iu"):
            raise CacheError(
                f"{self.path}: ids must be integers [n], found {asked.dtype} {list(asked.shape)}"
            )
        places = np.searchsorted(loaded.rows.ids, asked).clip(max=max(len(loaded.rows) - 1, 0))
        known = loaded.rows.ids[places] == asked if len(loaded.rows) else np.zeros(len(asked), bool)
        if not known.all():
            raise CacheError(
                f"{self.path}: split {split!r} has no row id {asked[~known][0]} and {int((~known).sum()) - 1} more of "
                f"the {len(asked)} asked rows; it has {len(loaded.rows)} rows"
            )
        return batch_of(loaded.rows.part(places), self.manifest, epoch)

    def match(self, rows: Any, split: str = "train", *, epoch: int = 0) -> TokenBatch:
        """The targets of your own batch. They are found by its tokens, so no wrong order or id can matter.

        Args:
            rows: a collated batch (`input_ids` [n, L], and `attention_mask`, `labels`, ... if it has them), or a list
                of rows; see `inputs.read_sequences`.
            epoch: an integer of 0 or more; selects draw `epoch` modulo the cache's draws.

        Returns:
            A batch of n rows in their order, padded to the same L.

        Raises:
            CacheError: a sequence is not in the cache. A distribution belongs to a prefix. So if the same text is
                packed, cut or tokenised in another way, it is another sequence. Or `epoch` is no such integer.
        """
        self.check_epoch(epoch)
        sequences = read_sequences(f"{self.path}: split {split!r}", rows)
        loaded, asked = self._load(split), sequences.hashes
        known, order = loaded.by_hash
        places = np.searchsorted(known, asked).clip(max=max(len(known) - 1, 0))
        there = known[places] == asked if len(known) else np.zeros(len(asked), bool)
        if not there.all():
            first = int(np.argmin(there))
            tokens = sequences.tokens.rows()[first][:8].tolist()
            raise CacheError(
                f"{self.path}: split {split!r} has no sequence like row {first} ({tokens} ...) and "
                f"{int((~there).sum()) - 1} more of {len(asked)}: a teacher's distribution belongs to its prefix, so "
                "sequences must be packed, cut, masked and tokenised as they were cached; cache these, or join those "
                "that were"
            )
        length = max(map(len, rows["input_ids"])) if isinstance(rows, Mapping) and len(asked) else None
        return batch_of(loaded.rows.part(order[places]), self.manifest, epoch, length)

    def join(
        self, batches: Iterable[Any], split: str = "train", *, column: str = "teacher", epoch: int = 0
    ) -> JoinedTokens:
        """Your own batches (mappings with `input_ids`), each with its `TokenBatch` as one more column.

        Args:
            batches: a DataLoader or any other iterable of batches.
            epoch: an integer of 0 or more; selects draw `epoch` modulo the cache's draws. `set_epoch` of what this
                returns selects another.

        Returns:
            An iterable of the same length that can be iterated as often as `batches`.

        Raises:
            CacheError: `batches` cannot be iterated, or `epoch` is no integer of 0 or more; or, at the first such
                batch, it is no mapping or has a sequence that is not in the cache. The message has the batch's number.
        """
        if not isinstance(batches, Iterable) or isinstance(batches, Mapping | str):
            raise CacheError(
                f"{self.path}: expected batches to join, such as a DataLoader, found {type(batches).__name__}; of one "
                "batch, take match(batch)"
            )
        return JoinedTokens(self, batches, split, column, epoch)

    def stream(
        self, split: str, batch_size: int, *, rank: int = 0, world_size: int = 1, seed: int | None = 0,
        buffer_groups: int = 4, drop_last: bool = False,
    ) -> TokenStream:  # fmt: skip
        """Batches of a split in bounded memory, shuffled and shared out over processes; see `LogitStream`."""
        return TokenStream(
            self._disk, split, batch_size, rank=rank, world_size=world_size, seed=seed,
            buffer_groups=buffer_groups, drop_last=drop_last,
        )  # fmt: skip

    def verify(self, level: Literal["quick", "full"] = "quick") -> Verification:
        """Look for damage, even in files that were checked before, in bounded memory.

        Args:
            level: "quick" reads every shard's footer. "full" also recomputes all checksums, reads every value, and
                compares every sequence with its hash.

        Raises:
            CacheError: at the first damage found.
        """
        return self._disk.verify(level)

    def info(self) -> dict[str, Any]:
        """The cache's facts as one JSON-like object. This reads every row group once."""
        manifest, counts = self.manifest, _Counts()
        for split in self.splits:
            for group in self.groups(split):
                counts.add(self.read_group(group))
        size = sum(shard.bytes for _, _, shard in self._disk.shards())
        return {
            "path": str(self.path),
            "identity": self.identity,
            "format_version": manifest.format_version,
            "kind": manifest.kind,
            "vocabulary": manifest.vocabulary.model_dump(),
            "estimator": dict(manifest.estimator),
            "temperature": manifest.temperature,
            "predicts": manifest.predicts,
            "rows": {name: split.rows for name, split in manifest.splits.items()},
            "shards": {name: len(split.shards) for name, split in manifest.splits.items()},
            "bytes": size,
            **counts.facts(size),
            "fingerprints": manifest.fingerprints.model_dump(),
            "cost": self.cost.model_dump() if self.cost else None,
            "versions": manifest.versions,
        }

    def check_epoch(self, epoch: Any) -> None:
        """Refuse an epoch that is no whole number, such as the Trainer's `state.epoch`, which is 0.5 halfway."""
        if not isinstance(epoch, Integral) or isinstance(epoch, bool) or epoch < 0:
            raise CacheError(
                f"{self.path}: epoch must be an integer of 0 or more, found {epoch!r:.80}; of a Trainer's state, take "
                "int(state.epoch or 0)"
            )

    def _load(self, name: str) -> _Loaded:
        if name not in self._loaded:
            self._loaded[name] = _Loaded(self._disk.load(name))
        return self._loaded[name]


class JoinedTokens:
    """The batches of `data`, each with its targets. As long as `data`, and can be iterated as often."""

    def __init__(self, cache: TokenCache, data: Iterable[Any], split: str, column: str, epoch: int) -> None:
        self.cache, self.data = cache, data
        self._split, self._column = split, column
        self.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # a clear TypeError if data has no length

    def set_epoch(self, epoch: int) -> None:
        """Take draw `epoch` modulo the cache's draws in the next pass. It does not shuffle `data`."""
        self.cache.check_epoch(epoch)
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch = self._epoch
        for number, batch in enumerate(self.data):
            if not isinstance(batch, Mapping):
                raise CacheError(
                    f"{self.cache.path}: batch {number}: expected a mapping with `input_ids`, found "
                    f"{type(batch).__name__}; use a collate function that returns one"
                )
            try:
                teacher = self.cache.match(batch, self._split, epoch=epoch)
            except CacheError as error:
                raise CacheError(f"batch {number}: {error}") from None
            yield {**batch, self._column: teacher.to(getattr(batch["input_ids"], "device", "cpu"))}


class TokenStream(LogitStream[TokenRows]):
    """A stream whose batches are `TokenBatch`es. Epoch e gives draw e modulo the cache's draws."""

    def __iter__(self) -> Iterator[TokenBatch]:  # type: ignore[override]
        epoch, header = self._epoch, self.cache.manifest
        return (batch_of(rows, header, epoch) for rows in super().__iter__())


class _Loaded:
    """A split in memory, with what makes look-ups fast."""

    def __init__(self, rows: TokenRows) -> None:
        self.rows = rows

    @cached_property
    def by_hash(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """(sorted row hashes, the places of their rows). Among equal hashes, the lowest id comes first."""
        order = np.argsort(self.rows.row_hashes, kind="stable")
        return self.rows.row_hashes[order], order


class _Counts:
    """Sums over all positions, for `info`."""

    def __init__(self) -> None:
        self.tokens = self.positions = self.heads = self.tails = 0
        self.label = self.entropy = self.mass = 0.0

    def add(self, rows: TokenRows) -> None:
        column = rows.columns
        self.tokens += len(column["tokens"].values)
        self.positions += int(column["loss"].values.sum())
        self.heads += int(column["heads"].values.sum(dtype=np.int64))
        self.tails += int(column["tails"].values.sum(dtype=np.int64))
        self.label += float(column["label_logprob"].values.sum(dtype=np.float64))
        self.entropy += float(column["entropy"].values.sum(dtype=np.float64))
        self.mass += float(np.exp(column["head_logprobs"].values.astype(np.float64)).sum())

    def facts(self, size: int) -> dict[str, Any]:
        def mean(value: float) -> float | None:
            return round(value / self.positions, 4) if self.positions else None

        return {
            "tokens": self.tokens,
            "positions": self.positions,
            "bytes_per_token": round(size / self.tokens, 2) if self.tokens else None,
            "head_entries": mean(self.heads),
            "tail_entries": mean(self.tails),
            "tail_probability": mean(self.positions - self.mass),
            "teacher_entropy": mean(self.entropy),
            "teacher_nll": mean(-self.label),
        }
