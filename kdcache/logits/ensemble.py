"""Combine several logit caches into one: the mean of their logits, or of their probabilities.

An ensemble of teachers needs no forward pass: the members' logits are cached already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError
from kdcache.hashing import fingerprint
from kdcache.logits.cache import LogitCache
from kdcache.logits.format import ROWS_PER_SHARD
from kdcache.logits.probabilities import log_softmax
from kdcache.logits.records import Fingerprints
from kdcache.logits.rows import CachedSplit
from kdcache.logits.scan import Reader, by_id
from kdcache.logits.writer import LogitWriter
from kdcache.system.files import user_path

Mean = Literal["logits", "probabilities"]
Floats = npt.NDArray[np.float64]


def ensemble(
    caches: Sequence[LogitCache | str | Path],
    path: str | Path,
    *,
    of: Mean = "logits",
    weights: Sequence[float] | None = None,
) -> LogitCache:
    """Write the (weighted) mean of several caches as a cache of its own, in float32 and sorted by id.

    All members must have the same data: the same splits, row ids, row hashes, classes and label names. In memory at
    once are a few row groups of each member, and one shard of the new cache, with as many rows as the smallest shards
    of a member have. A split that was not written in ascending order of ids is held whole.

    Args:
        caches: the members, open or as folders.
        path: the new cache's folder, which must not be a member's. An existing cache there is replaced.
        of: "logits": z = sum_m w_m z_m. "probabilities": z = log sum_m w_m softmax(z_m), so that softmax(z) is the
            mean of the members' probabilities.
        weights: one number >= 0 for each member, scaled to the sum 1. None gives all members the same weight.

    Returns:
        The new cache, open. Its `weights` fingerprint covers the members, `of` and the weights.

    Raises:
        CacheError: the members differ in their data (the message names the first difference) or cannot be read; `of`
            or `weights` cannot be used; or the new cache cannot be written.
    """
    members = [cache if isinstance(cache, LogitCache) else LogitCache(cache) for cache in caches]
    path = user_path(path)
    _check_members(members, path, of)
    shares = _shares(members, weights)
    first = members[0].manifest
    with LogitWriter(
        path,
        classes=first.classes,
        label_names=first.label_names,
        fingerprints=_fingerprints(members, of, shares),
        rows_per_shard=min(ROWS_PER_SHARD, *(member.manifest.rows_per_shard for member in members)),
        row_hash=first.row_hash,
    ) as writer:
        for split in first.splits:
            for mean in _means(members, split, of, shares):
                writer.write(split, mean.ids, mean.row_hashes, mean.logits)
        writer.finish()
    return LogitCache(path)


def _means(
    members: Sequence[LogitCache], split: str, kind: Mean, shares: Sequence[float]
) -> Iterator[CachedSplit]:
    """The mean of the members, piece by piece. There is at least one piece, so that an empty split is written too."""
    others = [Reader(by_id(member, split)) for member in members[1:]]
    shape = (0, members[0].manifest.classes)
    empty = CachedSplit(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(shape, np.float32))
    for first in chain([empty], by_id(members[0], split)):
        total = np.full(first.logits.shape, 0.0 if kind == "logits" else -np.inf)
        parts = [first, *(other.take(len(first.ids)) if len(first.ids) else first for other in others)]
        for member, part, share in zip(members, parts, shares, strict=True):
            _check_rows(members[0], member, split, first, part)
            if share > 0:
                _add(total, part.logits, kind, share)
        yield CachedSplit(first.ids, first.row_hashes, total.astype(np.float32))


def _add(total: Floats, logits: npt.NDArray[np.float32], kind: Mean, share: float) -> None:
    """Add one member to the sum of logits, or to the log of the sum of probabilities, in place."""
    values = logits.astype(np.float64)
    if kind == "logits":
        total += share * values
    else:
        np.logaddexp(total, np.log(share) + log_softmax(values), out=total)


def _fingerprints(members: Sequence[LogitCache], kind: Mean, shares: Sequence[float]) -> Fingerprints:
    prints = [member.manifest.fingerprints for member in members]
    weights = {"members": [member.identity for member in members], "mean": kind, "weights": list(shares)}
    return Fingerprints(
        data=prints[0].data,
        weights=fingerprint.of_json(weights),
        preprocessing=_common([item.preprocessing for item in prints]),
        code=_common([item.code for item in prints]),
    )


def _common(values: list[str]) -> str:
    """The value that all members share; if they differ, a fingerprint of the list of values."""
    return values[0] if len(set(values)) == 1 else fingerprint.of_json(values)


def _shares(members: Sequence[LogitCache], weights: Sequence[float] | None) -> list[float]:
    given = np.ones(len(members)) if weights is None else np.asarray(weights, dtype=np.float64)
    usable = given.shape == (len(members),) and np.isfinite(given).all() and (given >= 0).all()
    if not usable or not given.sum() > 0:
        raise CacheError(
            f"weights of an ensemble: expected {len(members)} numbers >= 0, one for each cache and not all zero, "
            f"found {given.tolist()}"
        )
    return [float(share) for share in given / given.sum()]


def _check_members(members: Sequence[LogitCache], path: Path, kind: str) -> None:
    if kind not in get_args(Mean):
        raise CacheError(f"{path}: no ensemble of {kind!r}; there are: {', '.join(get_args(Mean))}")
    if not members:
        raise CacheError(f"{path}: an ensemble needs caches to be made of, found none")
    for member in members:
        member.require_plain("an ensemble")
        if path.resolve() == member.path.resolve() or member.path.resolve() in path.resolve().parents:
            raise CacheError(
                f"{path}: is (in) one of the ensemble's caches, {member.path}; choose another folder"
            )
        _check_alike(members[0], member)
    if kind == "probabilities" and members[0].manifest.classes < 2:
        raise CacheError(f"{members[0].path}: has one output (a regression), so no probabilities; use logits")


def _check_alike(first: LogitCache, other: LogitCache) -> None:
    for name, expected, actual in (
        ("hash of the rows", first.row_hash, other.row_hash),
        ("classes", first.manifest.classes, other.manifest.classes),
        ("label names", first.manifest.label_names, other.manifest.label_names),
        ("data (fingerprint)", first.manifest.fingerprints.data, other.manifest.fingerprints.data),
        ("splits (rows)", _split_rows(first), _split_rows(other)),
    ):
        if expected != actual:
            raise CacheError(
                f"{other.path}: cannot be in an ensemble with {first.path}: other {name}: expected {expected!s:.300}, "
                f"found {actual!s:.300}; cache the logits of the same data"
            )


def _split_rows(cache: LogitCache) -> dict[str, int]:
    return {name: split.rows for name, split in sorted(cache.manifest.splits.items())}


def _check_rows(
    first: LogitCache, other: LogitCache, split: str, expected: CachedSplit, actual: CachedSplit
) -> None:
    different = (expected.ids != actual.ids) | (expected.row_hashes != actual.row_hashes)
    if different.any():
        row = int(np.argmax(different))
        raise CacheError(
            f"{other.path}: split {split!r} has other rows than {first.path}: expected row id {expected.ids[row]} "
            f"with hash {int(expected.row_hashes[row]):016x}, found row id {actual.ids[row]} with hash "
            f"{int(actual.row_hashes[row]):016x} ({int(different.sum())} of {len(different)} rows differ); "
            "cache the logits of the same data"
        )
