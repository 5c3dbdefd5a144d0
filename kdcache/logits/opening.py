"""Open a folder as the cache that it is: of logits, or of a language model's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.logits.manifests import kind_of
from kdcache.system.files import user_path

if TYPE_CHECKING:
    from kdcache.logits.cache import LogitCache
    from kdcache.logits.tokens.cache import TokenCache


def open_cache(path: str | Path) -> LogitCache | TokenCache:
    """The cache in a folder, of whichever kind.

    Raises:
        CacheError: there is none, or it is incomplete, damaged or of another format version.
    """
    if kind_of(user_path(path)) == "tokens":
        from kdcache.logits.tokens.cache import TokenCache

        return TokenCache(path)
    from kdcache.logits.cache import LogitCache

    return LogitCache(path)
