"""Write a logit cache row by row, in batches of any size. Whole shards go to disk, and the manifest comes last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kdcache.errors import CacheError
from kdcache.hashing.digests import BLAKE2B, Algorithm
from kdcache.logits.filling import Buffer, RowWriter
from kdcache.logits.format import ROWS_PER_SHARD, Dtype, Header, Manifest
from kdcache.logits.options import names
from kdcache.logits.records import Augmentation, Fingerprints
from kdcache.logits.rows import CachedSplit
from kdcache.logits.shards import checked_header
from kdcache.system.files import user_path


class LogitWriter(RowWriter[Manifest, CachedSplit]):
    """Writes one cache. It is a context manager.

    Entering removes an existing cache at `path`, its manifest first. Until `finish` has written the new manifest, the
    folder counts as incomplete and no reader accepts it. Two writers never share a folder. Its use::

        with LogitWriter(path, classes=2, label_names=["no", "yes"], fingerprints=fingerprints) as writer:
            for batch in batches:
                writer.write("train", batch.ids, batch.row_hashes, logits)
            writer.finish(scores={"train": {"accuracy": 0.98}})

    With `resume`, the whole shards of an interrupted run with the same options are kept. `written(split)` says how
    many rows they hold. Write the rows after those, in the same order as in the first run (only the caller knows it).
    The cache then has the same bytes as that of an uninterrupted run.

    Args:
        path: the cache's folder, created if missing.
        classes: K, the number of logits of a row (1 for a regression).
        label_names: the K names in order, or none for a regression.
        fingerprints: what the logits are computed from.
        rows_per_shard: rows of every shard except a split's last. It affects the files, not the values.
        dtype: "float32", or "float16" to round to half the size.
        resume: keep the whole shards of an interrupted run with these options.
        augmentation: the logits are of V augmented views of each row; None: of the rows themselves.

    Raises:
        CacheError: from every method, if the input cannot be used, another process is writing this cache, or writing
            fails.
    """

    replaces: ClassVar[bool] = True

    def __init__(
        self,
        path: str | Path,
        *,
        classes: int,
        label_names: Sequence[str],
        fingerprints: Fingerprints,
        rows_per_shard: int = ROWS_PER_SHARD,
        dtype: Dtype = "float32",
        resume: bool = False,
        augmentation: Augmentation | None = None,
        row_hash: Algorithm = BLAKE2B,
    ) -> None:
        folder = user_path(path)
        self._logits_header = checked_header(
            folder,
            Header,
            classes=classes,
            label_names=names(folder, "label_names", label_names),
            dtype=dtype,
            rows_per_shard=rows_per_shard,
            fingerprints=fingerprints,
            augmentation=augmentation,
            row_hash=row_hash,
        )
        super().__init__(folder, Manifest, self._logits_header, resume)

    def _buffer(self) -> Buffer[CachedSplit]:
        try:
            return _LogitBuffer(self._logits_header)
        except MemoryError as error:
            raise CacheError(
                f"{self.path}: a shard does not fit into memory ({error}); lower rows_per_shard"
            ) from None

    def write(self, split: str, ids: Any, row_hashes: Any, logits: Any) -> None:
        """Append rows to a split. Full shards go to disk at once.

        Args:
            split: its name, e.g. "train".
            ids: integers [n], 0 or more, each once per split.
            row_hashes: uint64 [n], see `kdcache.hashing.rows.row_hash`.
            logits: float32 or float16 [n, K] ([n, V, K] with an augmentation), raw (un-tempered) and finite.
        """
        self._require_open()
        self._require_split_name(split)
        context = f"{self.path}: split {split!r}"
        self._add(split, checked_rows(context, ids, row_hashes, logits, self._logits_header))


class _LogitBuffer(Buffer[CachedSplit]):
    """A shard's rows, in arrays that are used again for the next shard."""

    def __init__(self, header: Header) -> None:
        super().__init__(header.rows_per_shard)
        self._all = CachedSplit.empty(self.size, header.row_shape, header.dtype)

    def put(self, rows: CachedSplit) -> None:
        to = slice(self.filled, self.filled + len(rows))
        self._all.ids[to], self._all.row_hashes[to], self._all.logits[to] = (
            rows.ids,
            rows.row_hashes,
            rows.logits,
        )

    def rows(self) -> CachedSplit:
        return self._all.part(slice(0, self.filled))


def checked_rows(context: str, ids: Any, row_hashes: Any, logits: Any, header: Header) -> CachedSplit:
    """The rows in the form in which they are stored.

    Raises:
        CacheError: shapes or types are wrong, ids are negative, or logits are not finite. Each message begins with
            `context`.
    """
    ids = _checked_ids(context, ids)
    row_hashes = _checked_hashes(context, row_hashes)
    logits = as_values(context, "logits", logits)
    if logits.shape[1:] != header.row_shape:
        row_shape = ", ".join(map(str, header.row_shape))
        raise CacheError(f"{context}: expected logits [n, {row_shape}], found the shape {list(logits.shape)}")
    if not len(ids) == len(row_hashes) == len(logits):
        raise CacheError(
            f"{context}: {len(ids)} ids, {len(row_hashes)} row hashes and {len(logits)} rows of logits "
            "do not match"
        )
    if logits.dtype not in (np.float32, np.float16):
        raise CacheError(
            f"{context}: expected float32 or float16 logits, found {logits.dtype}; convert them, e.g. .float()"
        )
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is refused below
        stored = logits.astype(header.dtype, copy=False)
    if not np.isfinite(stored).all():
        row = int(np.argmin(np.isfinite(stored).reshape(len(stored), -1).all(axis=1)))
        raise CacheError(
            f"{context}: row id {ids[row]} has the logits {logits[row].reshape(-1).tolist()[:8]}, which are not all "
            f"finite in {header.dtype}; check the model and its precision"
        )
    return CachedSplit(ids, row_hashes, stored)


def as_values(context: str, name: str, values: Any) -> np.ndarray:
    """Arrays, lists and tensors (on any device, with a gradient, in bfloat16) as an array."""
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = values.float() if str(values.dtype) == "torch.bfloat16" else values  # exact
        if np.ma.is_masked(values):
            raise ValueError("some of its values are masked; leave these rows out")
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CacheError(f"{context}: {name} cannot be taken as an array: {error}") from None


def _checked_ids(context: str, values: Any) -> np.ndarray:
    ids = as_values(context, "ids", values)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise CacheError(f"{context}: ids must be integers [n], found {ids.dtype} {list(ids.shape)}")
    if ids.size and (ids.min() < 0 or ids.max() > np.iinfo(np.int64).max):
        raise CacheError(f"{context}: an id must be from 0 to 2^63 - 1, found {ids.min()} to {ids.max()}")
    return ids.astype(np.int64, copy=False)


def _checked_hashes(context: str, values: Any) -> np.ndarray:
    hashes = as_values(context, "row hashes", values)
    unsigned = hashes.dtype.kind == "u" or (hashes.dtype.kind == "i" and not (hashes < 0).any())
    if hashes.ndim != 1 or (hashes.size and not unsigned):
        raise CacheError(
            f"{context}: row hashes must be uint64 [n], found {hashes.dtype} {list(hashes.shape)}"
        )
    return hashes.astype(np.uint64, copy=False)
