"""Write a cache again with other fingerprints: the same rows and logits (or distributions), in the same shards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.logits.cache import LogitCache
from kdcache.logits.cost import COST
from kdcache.logits.manifests import kind_of
from kdcache.logits.opening import open_cache
from kdcache.logits.records import Fingerprints
from kdcache.logits.writer import LogitWriter

if TYPE_CHECKING:
    from kdcache.logits.tokens.cache import TokenCache


def restamped(source: Path, target: Path, fingerprints: Fingerprints) -> LogitCache | TokenCache:
    """Copy a cache to `target` as if it was computed from these fingerprints, in bounded memory.

    Raises:
        CacheError: the cache is damaged, or the copy cannot be written.
    """
    _restamp_tokens(source, target, fingerprints) if kind_of(source) == "tokens" else _restamp_rows(
        source, target, fingerprints
    )
    if (source / COST).is_file():
        shutil.copy2(source / COST, target / COST)
    copied = open_cache(target)
    assert copied.manifest.fingerprints == fingerprints  # as it was written
    return copied


def _restamp_tokens(source: Path, target: Path, fingerprints: Fingerprints) -> None:
    from kdcache.logits.tokens.cache import TokenCache
    from kdcache.logits.tokens.format import TokenHeader, TokenManifest
    from kdcache.logits.tokens.writer import TokenWriter

    cache = TokenCache(source)
    kept = {name: getattr(cache.manifest, name) for name in TokenHeader.model_fields}
    header = TokenHeader(**{**kept, "fingerprints": fingerprints})
    with TokenWriter(target, TokenManifest, header, resume=False) as writer:
        for split in cache.splits:
            for group in cache.groups(split):
                writer.write(split, cache.read_group(group))
        writer.finish()


def _restamp_rows(source: Path, target: Path, fingerprints: Fingerprints) -> None:
    cache = LogitCache(source)
    manifest = cache.manifest
    with LogitWriter(
        target,
        classes=manifest.classes,
        label_names=manifest.label_names,
        fingerprints=fingerprints,
        dtype=manifest.dtype,
        rows_per_shard=manifest.rows_per_shard,
        augmentation=manifest.augmentation,
        row_hash=manifest.row_hash,
    ) as writer:
        for split in cache.splits:
            for group in cache.groups(split):
                rows = cache.read_group(group)
                writer.write(split, rows.ids, rows.row_hashes, rows.logits)
        writer.finish(scores=manifest.scores)
