"""Copy a logit cache with other fingerprints: the same rows and logits, in the same shards."""

from __future__ import annotations

import shutil
from pathlib import Path

from kdcache.logits.cache import LogitCache
from kdcache.logits.cost import COST
from kdcache.logits.records import Fingerprints
from kdcache.logits.writer import LogitWriter


def restamped(source: Path, target: Path, fingerprints: Fingerprints) -> LogitCache:
    """Copy a cache to `target`, with these fingerprints instead of its own; in bounded memory.

    Raises:
        CacheError: the cache is damaged, or the copy cannot be written.
    """
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
    if (source / COST).is_file():
        shutil.copy2(source / COST, target / COST)
    return LogitCache(target, fingerprints)
