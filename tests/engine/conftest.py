from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own settings only, not those of who runs them."""
    for name in list(os.environ):
        if name.startswith(("KDCACHE_", "RAYON_")) or name in ("RAY_ADDRESS", "WORLD_SIZE"):
            monkeypatch.delenv(name)
