"""The error of this package."""

from __future__ import annotations

from kdcache.errors import KdcacheError


class PretrainingError(KdcacheError):
    """A recipe, corpus or saved state that cannot be used; the message says what to do."""
