"""A complete logit cache, open for reading: its facts, and its logits by row id, as a stream, or joined to rows.

Opening reads the manifest and checks the files' sizes. Values are read when they are first needed: a whole split into
memory (`logits`, `split`), or row group by row group (`read_group`, `stream`) for a split that is larger than memory. A
shard's checksum is compared with the manifest's before any of its values is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdcache.errors import CacheError
from kdcache.hashing.content import Column
from kdcache.hashing.digests import Algorithm
from kdcache.logits.cost import read_cost
from kdcache.logits.disk import Group, ShardedCache, Verification
from kdcache.logits.format import Manifest
from kdcache.logits.gather import Gather
from kdcache.logits.join import join
from kdcache.logits.records import Cost, Fingerprints
from kdcache.logits.rows import CachedSplit
from kdcache.logits.stream import LogitStream
from kdcache.system.files import user_path


class LogitCache:
    """A complete logit cache, open for reading.

    Args:
        path: the cache's folder.
        expect: the fingerprints of the data, weights, preprocessing and code that the logits must come from;
            None accepts any.

    Raises:
        CacheError: the cache is incomplete, damaged, of another format version, or not the expected cache. The methods
            raise the same error if they find a damaged shard later.
    """

    def __init__(self, path: str | Path, expect: Fingerprints | None = None) -> None:
        self._disk: ShardedCache[Manifest, CachedSplit] = ShardedCache(user_path(path), Manifest, expect)
        self._gather = Gather(self._disk)

    @property
    def path(self) -> Path:
        """The cache's folder."""
        return self._disk.path

    @property
    def manifest(self) -> Manifest:
        """The content of manifest.json."""
        return self._disk.manifest

    @property
    def cost(self) -> Cost | None:
        """What computing the logits took, from cost.json beside the manifest; None if that file is missing."""
        return read_cost(self.path) or self.manifest.cost

    @property
    def identity(self) -> str:
        """Fingerprint of everything that decides the logits (not of scores, cost and versions)."""
        return self.manifest.identity

    @property
    def splits(self) -> list[str]:
        """The names of the splits, in the order of writing."""
        return list(self.manifest.splits)

    @property
    def row_hash(self) -> Algorithm:
        """The algorithm of the row hashes."""
        return self.manifest.row_hash

    @property
    def views(self) -> int | None:
        """V, the number of augmented views of each row; None if the rows were not augmented."""
        return self._gather.views

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
        return self._gather.logits(split, ids, row_hashes, view)

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
        return self._gather.row_ids_of(split, row_hashes, hints)

    def split(self, name: str) -> CachedSplit:
        """A whole split in memory, sorted by id. It is read once, then kept."""
        return self._gather.split(name)

    def groups(self, split: str) -> list[Group]:
        """The row groups of a split, in the order of writing. Reads the shards' footers once and keeps them."""
        return self._disk.groups(split)

    def read_group(self, group: Group) -> CachedSplit:
        """The rows of one row group, in the order of writing, read-only. No other rows of the split are in memory.

        The first call for a shard reads its whole file, in pieces, to compare its checksum.
        """
        return self._disk.read_group(group)

    def read_ids(self, group: Group) -> np.ndarray:
        """The ids of one row group, int64 [n], in the order of writing."""
        return self._disk.read_ids(group)

    def stream(
        self,
        split: str,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = 0,
        buffer_groups: int = 4,
        drop_last: bool = False,
    ) -> LogitStream[CachedSplit]:
        """Batches of a split in bounded memory, shuffled and shared out over processes; see `LogitStream`."""
        return LogitStream(
            self._disk,
            split,
            batch_size,
            rank=rank,
            world_size=world_size,
            seed=seed,
            buffer_groups=buffer_groups,
            drop_last=drop_last,
        )

    def join(
        self,
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
        """The data (a data set, table, list of rows or loader of batches) with its rows' logits; see `join.join`."""
        return join(
            self._gather,
            data,
            split,
            column=column,
            id_column=id_column,
            hash_column=hash_column,
            columns=columns,
            label=label,
            view=view,
        )

    def check_view(self, view: Any) -> None:
        """Refuse a view that the cache does not have.

        Raises:
            CacheError: there is no such view. The message says which views there are.
        """
        self._gather.check_view(view)

    def require_plain(self, doing: str) -> None:
        """Refuse a cache with views, for work that needs logits of rows that were not augmented.

        Raises:
            CacheError: the cache has views. The message says that `doing`, such as "an ensemble", takes none.
        """
        if self.views is not None:
            raise CacheError(
                f"{self.path}: {doing} takes logits of the rows as they are, but this cache has {self.views} augmented "
                "views of each; cache the logits without augmentation for it"
            )

    def verify(self, level: Literal["quick", "full"] = "quick") -> Verification:
        """Look for damage, even in files that were checked before. Uses 8 bytes of memory per row of a split.

        Args:
            level: "quick" reads every shard's footer: columns, types, rows, and which cache the shard belongs to.
                "full" also recomputes all checksums and reads every value.

        Raises:
            CacheError: at the first damage found.
        """
        return self._disk.verify(level)

    def info(self) -> dict[str, Any]:
        """The cache's facts as one JSON-like object, for people and scripts."""
        manifest = self.manifest
        rows = sum(split.rows for split in manifest.splits.values())
        size = sum(shard.bytes for _, _, shard in self._disk.shards())
        return {
            "path": str(self.path),
            "identity": self.identity,
            "format_version": manifest.format_version,
            "classes": manifest.classes,
            "label_names": manifest.label_names,
            "dtype": manifest.dtype,
            "augmentation": manifest.augmentation.model_dump() if manifest.augmentation else None,
            "rows": {name: split.rows for name, split in manifest.splits.items()},
            "shards": {name: len(split.shards) for name, split in manifest.splits.items()},
            "bytes": size,
            "bytes_per_row": round(size / rows, 2) if rows else None,
            "fingerprints": manifest.fingerprints.model_dump(),
            "scores": manifest.scores,
            "cost": self.cost.model_dump() if self.cost else None,
            "versions": manifest.versions,
        }
