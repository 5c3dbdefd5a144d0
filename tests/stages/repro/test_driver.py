"""Which signals stop a run of `kdcache repro`."""

from __future__ import annotations

import os
import signal

import pytest

from stages.repro.driver import _signals


@pytest.fixture
def hang_up_ignored():
    """As in a process that `nohup` started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_hang_up_that_nohup_has_ignored_stops_nothing(hang_up_ignored: None) -> None:
    with _signals() as received:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_any_other_hang_up_does() -> None:
    with _signals() as received:
        os.kill(os.getpid(), signal.SIGHUP)
    assert received == [signal.SIGHUP]
