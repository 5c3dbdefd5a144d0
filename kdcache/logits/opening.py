"""Open a cache of either kind: a logit cache or a token cache, as its manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.logits.manifests import kind_of, load_manifest
from kdcache.system.files import user_path

if TYPE_CHECKING:
    from kdcache.logits.cache import LogitCache
    from kdcache.logits.format import Manifest
    from kdcache.logits.tokens.cache import TokenCache
    from kdcache.logits.tokens.format import TokenManifest


def open_cache(path: str | Path) -> LogitCache | TokenCache:
    """A complete cache, open for reading.

    Raises:
        CacheError: the folder holds no cache, or its cache is incomplete, damaged or of another format version.
    """
    if kind_of(user_path(path)) == "tokens":
        from kdcache.logits.tokens.cache import TokenCache

        return TokenCache(path)
    from kdcache.logits.cache import LogitCache

    return LogitCache(path)


def read_manifest(folder: Path) -> Manifest | TokenManifest:
    """A cache's manifest alone. Its shards need not be there.

    Raises:
        CacheError: there is no manifest, or it was edited, is damaged, or has a newer format.
    """
    if kind_of(folder) == "tokens":
        from kdcache.logits.tokens.format import TokenManifest

        return load_manifest(folder, TokenManifest)
    from kdcache.logits.format import Manifest

    return load_manifest(folder, Manifest)
