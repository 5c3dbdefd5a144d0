"""Read a logit cache: check what it is, then give logits by row id, never another row's.

Opening reads the manifest and looks at the files' sizes. A split is read when it is first asked for; the
bytes of each shard are checked against the manifest's checksum before anything parses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pyarrow as pa

from kdcache.errors import CacheError
from kdcache.logits.format import (
    MANIFEST,
    Fingerprints,
    Manifest,
    ShardInfo,
    load_manifest,
    open_shard,
    sha256,
)


@dataclass(frozen=True)
class CachedSplit:
    """One split in memory, sorted by id; the arrays are read-only."""

    ids: np.ndarray  # int64 [N]
    row_hashes: np.ndarray  # uint64 [N]
    logits: np.ndarray  # float32 [N, K]


@dataclass(frozen=True)
class Verification:
    """What `LogitCache.verify` looked at and found to be whole."""

    level: Literal["quick", "full"]
    shards: int
    rows: int
    bytes: int


class LogitCache:
    """A complete logit cache, open for reading.

    Args:
        path: the cache's folder.
        expect: the fingerprints of the data, weights, preprocessing and code that the logits must come from;
            None accepts any.

    Raises:
        CacheError: the cache is incomplete, damaged, of another format version, or not the one expected. The
            same error comes from the methods, when a damaged shard is met later.
    """

    def __init__(self, path: str | Path, expect: Fingerprints | None = None) -> None:
        self.path = Path(path)
        self.manifest: Manifest = load_manifest(self.path)
        for _, _, shard in self._shards():
            self._check_size(shard)
        if expect is not None:
            self._check_fingerprints(expect)
        self._loaded: dict[str, CachedSplit] = {}

    @property
    def identity(self) -> str:
        """Fingerprint of everything that decides the logits (not of scores, cost and versions)."""
        return self.manifest.identity

    @property
    def splits(self) -> list[str]:
        """The names of the splits, in the order of writing."""
        return list(self.manifest.splits)

    def logits(self, split: str, ids: Any, row_hashes: Any | None = None) -> np.ndarray:
        """The logits of the asked rows, in the asked order.

        Args:
            split: e.g. "train".
            ids: integers [n], in any order, repeats allowed; all must be in the cache.
            row_hashes: uint64 [n], the hashes of the rows the caller has under these ids; checked when given.

        Returns:
            float32 [n, K], a copy.

        Raises:
            CacheError: an id is not in the cache, or a row is not the one whose logits were cached.
        """
        whole = self.split(split)
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise CacheError(f"{self.path}: ids must be integers [n], found {ids.dtype} {list(ids.shape)}")
        positions = self._positions(split, whole, ids.astype(np.int64))
        if row_hashes is not None:
            self._check_hashes(split, ids, np.asarray(row_hashes), whole.row_hashes[positions])
        gathered: np.ndarray = whole.logits[positions]
        return gathered

    def split(self, name: str) -> CachedSplit:
        """A whole split in memory, sorted by id; read once, then kept."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def verify(self, level: Literal["quick", "full"] = "quick") -> Verification:
        """Look for damage.

        Args:
            level: "quick" reads every shard's footer: columns, types, rows, and whose shard it is. "full"
                also recomputes all checksums and reads every value.

        Raises:
            CacheError: at the first damage found.
        """
        if level not in ("quick", "full"):
            raise CacheError(f"{self.path}: no verification level {level!r}; there are quick and full")
        shards = list(self._shards())
        for split, index, shard in shards:
            if level == "quick":
                self._check_size(shard)
                path = self.path / shard.file
                open_shard(path, path, self.manifest, split, index)
        if level == "full":
            for split in self.manifest.splits:
                self._load(split)
        return Verification(
            level, len(shards), sum(s.rows for _, _, s in shards), sum(s.bytes for _, _, s in shards)
        )

    def info(self) -> dict[str, Any]:
        """The cache's facts as one JSON-like object, for people and scripts."""
        manifest = self.manifest
        rows = sum(split.rows for split in manifest.splits.values())
        size = sum(shard.bytes for _, _, shard in self._shards())
        return {
            "path": str(self.path),
            "identity": self.identity,
            "format_version": manifest.format_version,
            "classes": manifest.classes,
            "label_names": manifest.label_names,
            "dtype": manifest.dtype,
            "rows": {name: split.rows for name, split in manifest.splits.items()},
            "shards": {name: len(split.shards) for name, split in manifest.splits.items()},
            "bytes": size,
            "bytes_per_row": round(size / rows, 2) if rows else None,
            "fingerprints": manifest.fingerprints.model_dump(),
            "scores": manifest.scores,
            "cost": manifest.cost.model_dump() if manifest.cost else None,
            "versions": manifest.versions,
        }

    def _shards(self) -> Iterator[tuple[str, int, ShardInfo]]:
        for name, split in self.manifest.splits.items():
            for index, shard in enumerate(split.shards):
                yield name, index, shard

    def _check_size(self, shard: ShardInfo) -> None:
        path = self.path / shard.file
        try:
            found = path.stat().st_size if path.is_file() else None
        except OSError as error:
            raise CacheError(f"{path}: cannot be read: {error.strerror or error}") from error
        if found is None:
            raise CacheError(f"{path}: the shard is missing; restore it or cache the logits again")
        if found != shard.bytes:
            raise CacheError(
                f"{path}: expected {shard.bytes} bytes, found {found}: truncated or replaced; "
                "restore it or cache the logits again"
            )

    def _check_fingerprints(self, expect: Fingerprints) -> None:
        expected, found = expect.model_dump(), self.manifest.fingerprints.model_dump()
        different = [name for name in expected if expected[name] != found[name]]
        if different:
            values = "; ".join(
                f"{name}: expected {expected[name]}, found {found[name]}" for name in different
            )
            raise CacheError(
                f"{self.path / MANIFEST}: these logits are of another {' and '.join(different)} ({values}); "
                "cache the logits again"
            )

    def _load(self, name: str) -> CachedSplit:
        if name not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise CacheError(f"{self.path}: no split {name!r} in this cache (there are: {known})")
        split, classes = self.manifest.splits[name], self.manifest.classes
        ids = np.empty(split.rows, np.int64)
        row_hashes = np.empty(split.rows, np.uint64)
        logits = np.empty((split.rows, classes), np.float32)
        start = 0
        for index in range(len(split.shards)):
            for part in self._groups(name, index):
                rows = slice(start, start + len(part[0]))
                ids[rows], row_hashes[rows], logits[rows] = part
                start += len(part[0])
        return _sorted(self.path, name, ids, row_hashes, logits)

    def _groups(self, split: str, index: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(ids, row_hashes, logits) of each row group of a shard, whose checksum is verified first."""
        shard = self.manifest.splits[split].shards[index]
        path = self.path / shard.file
        file = open_shard(self._verified_bytes(shard), path, self.manifest, split, index)
        try:
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group)
                values = table["logits"].combine_chunks().flatten().to_numpy()
                logits = values.reshape(-1, self.manifest.classes).astype(np.float32, copy=False)
                if not np.isfinite(logits).all():
                    raise CacheError(f"{path}: has logits that are not finite; cache the logits again")
                yield table["id"].to_numpy(), table["row_hash"].to_numpy(), logits
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CacheError(f"{path}: cannot be decoded ({error}); cache the logits again") from error

    def _verified_bytes(self, shard: ShardInfo) -> bytes:
        self._check_size(shard)
        path = self.path / shard.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CacheError(f"{path}: cannot be read: {error.strerror or error}") from error
        found = sha256(data)
        if found != shard.sha256:
            raise CacheError(
                f"{path}: is damaged: expected the checksum {shard.sha256}, found {found}; "
                "restore it or cache the logits again"
            )
        return data

    def _positions(self, split: str, whole: CachedSplit, ids: np.ndarray) -> np.ndarray:
        if _dense(whole.ids):
            positions, missing = ids, (ids < 0) | (ids >= len(whole.ids))
        else:
            positions = np.minimum(np.searchsorted(whole.ids, ids), len(whole.ids) - 1)
            missing = whole.ids[positions] != ids if len(whole.ids) else np.ones(len(ids), dtype=bool)
        if missing.any():
            raise CacheError(
                f"{self.path}: split {split!r} has no logits for row id {ids[missing][0]} and "
                f"{int(missing.sum()) - 1} more of the {len(ids)} asked rows; cache the logits of this data"
            )
        return positions

    def _check_hashes(self, split: str, ids: np.ndarray, expected: np.ndarray, found: np.ndarray) -> None:
        if expected.shape != ids.shape or (expected.size and expected.dtype.kind not in "iu"):
            raise CacheError(
                f"{self.path}: expected {len(ids)} row hashes (uint64), found {expected.dtype} "
                f"{list(expected.shape)}"
            )
        different = expected.astype(np.uint64) != found
        if different.any():
            self._refuse_rows(split, ids, expected.astype(np.uint64), found, different)

    def _refuse_rows(
        self, split: str, ids: np.ndarray, expected: np.ndarray, found: np.ndarray, different: np.ndarray
    ) -> NoReturn:
        first = int(np.argmax(different))
        raise CacheError(
            f"{self.path}: split {split!r}, row id {ids[first]}: the logits were cached for another row: "
            f"expected row hash {int(expected[first]):016x}, found {int(found[first]):016x} "
            f"({int(different.sum())} of {len(ids)} asked rows differ); the data changed or its ids were "
            "shuffled, cache the logits again"
        )


def _dense(ids: np.ndarray) -> bool:
    """Whether sorted, distinct ids are 0 .. N-1, so that an id is a position."""
    return len(ids) > 0 and int(ids[0]) == 0 and int(ids[-1]) == len(ids) - 1


def _sorted(
    path: Path, split: str, ids: np.ndarray, row_hashes: np.ndarray, logits: np.ndarray
) -> CachedSplit:
    steps = np.diff(ids)
    if not (steps > 0).all():
        order = np.argsort(ids, kind="stable")
        ids, row_hashes, logits = ids[order], row_hashes[order], logits[order]
        same = np.flatnonzero(np.diff(ids) == 0)
        if len(same):
            raise CacheError(
                f"{path}: split {split!r} has row id {ids[same[0]]} twice; cache the logits again"
            )
    for array in (ids, row_hashes, logits):
        array.flags.writeable = False
    return CachedSplit(ids, row_hashes, logits)
