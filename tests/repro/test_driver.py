"""Which signals stop a run of `kdcache repro`."""

from __future__ import annotations

import os
import signal

import pytest

from kdcache.repro.driver import _signals


@pytest.fixture(params=[signal.SIG_DFL])
def hang_up(request):
    """What a hang-up does to this process, whoever started the tests."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("hang_up", [signal.SIG_IGN], indirect=True)
def test_a_hang_up_that_nohup_has_ignored_stops_nothing(hang_up: None) -> None:
    with _signals() as received:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_any_other_hang_up_does(hang_up: None) -> None:
    with _signals() as received:
        os.kill(os.getpid(), signal.SIGHUP)
    assert received == [signal.SIGHUP]
