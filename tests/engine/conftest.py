from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own settings only, not those of who runs them."""
    for name in list(os.environ):
        if name.startswith(("KDCACHE_", "RAYON_")) or name in ("RAY_ADDRESS", "WORLD_SIZE"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def _ray_of_a_test() -> Iterator[None]:
    """Variables for a Ray that is started meanwhile; the signal handlers that it replaces are put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else it leaves a token in the home folder
        patch.setenv("RAY_worker_niceness", "0")  # else other work on this machine starves them
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
