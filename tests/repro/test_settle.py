"""`kdcache settle` without DVC's stages: what settle.json says at each moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from kdcache.errors import KdcacheError
from kdcache.repro import settle as settling
from kdcache.statistics.going_on import Standing
from kdcache.study import load_study
from kdcache.study.settled import read_settled, write_settled
from tests.study.samples import changed, write

LOOKS = {"seeds": 8, "comparison.looks": [2, 4, 8]}
ANOTHER = {**LOOKS, "comparison.margin": {"accuracy": 10.0}}
SETTLED = Path("settle.json")
LOCK = Path(".dvc/tmp/kdcache/repro.lock")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project with a study and a trial; no comparison of it is open after two looks."""
    monkeypatch.chdir(tmp_path)
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    Path("data/trials/news/small/base/seed-0").mkdir(parents=True)
    write(tmp_path, changed(LOOKS))
    monkeypatch.setattr(settling, "_judged", judged)
    return tmp_path


def judged(study: Any) -> Standing:
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for task, student, method in study.configurations():
        counts.setdefault(task, {}).setdefault(student, {})[method] = 4
    return Standing(1, (), counts)


def ran(monkeypatch: pytest.MonkeyPatch, during: Callable[[], int]) -> list[list[str]]:
    """Let a function stand in for the stages; returns the targets that it is run for, as they come."""
    targets: list[list[str]] = []

    def run(asked: Any = (), *_: Any, **__: Any) -> int:
        targets.append(list(asked))
        return during()

    monkeypatch.setattr(settling, "reproduce", run)
    return targets


def margins() -> list[Any]:
    return [one["margin"]["accuracy"] for one in read_settled(SETTLED).declared]


def test_a_declaration_is_kept_once_trials_were_judged_by_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Any]] = []
    targets = ran(monkeypatch, lambda: seen.append(margins()) or 0)
    margin = load_study(Path("params.yaml")).comparison.margin["accuracy"]
    assert settling.settle(say=lambda _: None) == 0
    assert targets == [["compare"], ["compare"], []]
    assert seen == [[], [margin], [margin]]
    before = SETTLED.read_bytes()
    assert settling.settle(say=lambda _: None) == 0
    assert SETTLED.read_bytes() == before
    assert seen[3:] == [[margin], [margin]]


def test_a_change_that_is_stopped_before_anything_is_judged_leaves_no_trace(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(monkeypatch, lambda: 0)
    settling.settle(say=lambda _: None)
    before = SETTLED.read_bytes()
    write(project, changed(ANOTHER))
    ran(monkeypatch, lambda: 130)
    assert settling.settle(say=lambda _: None) == 130
    assert SETTLED.read_bytes() == before
    ran(monkeypatch, lambda: 0)
    settling.settle(say=lambda _: None)
    assert margins()[1:] == [10.0]


def test_a_clone_that_begins_anew_keeps_what_it_was_judged_by(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(Path("params.yaml"))
    write_settled(SETTLED, study, judged(study).counts)
    kept = margins()
    Path("data/trials/news/small/base/seed-0").rmdir()
    write(project, changed(ANOTHER))
    ran(monkeypatch, lambda: 130)
    settling.settle(say=lambda _: None)
    assert margins() == kept
    assert read_settled(SETTLED).seeds["news"]["small"]["base"] == 2


@pytest.mark.parametrize("changes", [LOOKS, {}], ids=["looks", "fixed"])
def test_beside_another_run_nothing_is_written(project: Path, changes: dict[str, Any]) -> None:
    write(project, changed(changes))
    refused()
    assert not SETTLED.exists()
    study = load_study(Path("params.yaml"))
    write_settled(SETTLED, study, judged(study).counts)
    before = SETTLED.read_bytes()
    write(project, changed({**changes, "comparison.margin": {"accuracy": 10.0}}))
    refused()
    assert SETTLED.read_bytes() == before


def refused() -> None:
    """Settle while another run is under way."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(LOCK), pytest.raises(KdcacheError, match="another `kdcache repro` runs"):
        settling.settle(say=lambda _: None)


def test_nobody_else_runs_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def others_are_refused() -> int:
        with pytest.raises(Timeout):
            FileLock(LOCK).acquire(timeout=0)
        return 0

    targets = ran(monkeypatch, others_are_refused)
    assert settling.settle(say=lambda _: None) == 0
    assert targets == [["compare"], ["compare"], []]
