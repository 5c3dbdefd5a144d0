from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from kdcache.engine.shared_server import SharedServer


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests' own settings count, not those of the person who runs them."""
    for name in list(os.environ):
        if name.startswith(("KDCACHE_", "RAYON_")) or name in ("RAY_ADDRESS", "WORLD_SIZE"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def _shared() -> Iterator[dict[str, str]]:
    with SharedServer() as server:
        yield server.start()


@pytest.fixture(params=["own", "shared"])
def server(
    request: pytest.FixtureRequest,
    _no_settings: None,
    _shared: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Which server the workers are forked from: this process's own, or one that it shares."""
    if request.param == "shared":
        for name, value in _shared.items():
            monkeypatch.setenv(name, value)
    return str(request.param)


@pytest.fixture(scope="module")
def _ray_of_a_test() -> Iterator[None]:
    """Set variables for a Ray that a test starts, and restore the signal handlers that it replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise Ray leaves a token in the home folder
        patch.setenv("RAY_worker_niceness", "0")  # otherwise other work on this machine starves the workers
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
