"""What is said of a training that runs, and where."""

from __future__ import annotations

import io
import logging
import re
import sys
from pathlib import Path

import pytest

from kdcache.repro.progress import EPOCH
from kdcache.training.watching import Epoch
from kdcache.trials.states import EVERY
from kdcache.trials.watching import watched

DONE = Epoch(number=3, of=8, loss=0.123456, rows=500, seconds=2.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_line_for_each_epoch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), watched("digits / vit / base / seed 0", "one", {}) as watch:
        watch.begins(steps=80, done=0)
        watch.epoch(DONE)
    assert caplog.messages == ["digits / vit / base / seed 0: epoch 3/8: loss 0.1235, 2.0 s, 250 rows/s"]
    found = EPOCH.search(caplog.messages[0])  # `kdcache repro` shows it beside the running stage
    assert found is not None
    assert found[1] == "3/8"


def test_a_bar_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with watched("rte / teacher big", "one", {}) as watch:
            watch.begins(steps=80, done=40)
            watch.step()
        assert ("rte / teacher big:  50%" in stream.getvalue()) == expected
        assert re.search(r"\S", stream.getvalue().split("\r")[-1]) is None  # nothing of it is left


def test_a_wrong_setting_is_an_error_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVERY, "often")
    with pytest.raises(Exception, match="KDCACHE_STATE_MINUTES"), watched("a", "one", {}):
        raise AssertionError
