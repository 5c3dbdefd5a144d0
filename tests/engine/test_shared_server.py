"""One server of worker processes for several stages."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from kdcache.engine import forking, run_trials
from kdcache.engine.forking import SHARED, start
from kdcache.engine.shared_server import SharedServer
from kdcache.trials.plan import TrialPlan
from tests.engine.plans import alive, plans, seeds, tell_pid, touch, wait_for


def tell(pipe, what):
    """In the new process: answer, then wait for the end."""
    answers = {
        "torch": "torch" in sys.modules,
        "folder": os.getcwd(),
        "path": sys.path,
        "parents": [parent.pid for parent in psutil.Process().parents()],
    }
    pipe.send(answers[what])
    pipe.recv()


def answer(what: str) -> object:
    started = start(tell, (what,))
    try:
        return started.receive()
    finally:
        started.end()


def servers() -> list[int]:
    """The shared servers that this process has started."""
    children = psutil.Process().children()
    return [child.pid for child in children if "kdcache.engine.shared_server" in child.cmdline()]


def the_server(*others: int) -> int:
    """The only one besides others, as soon as it can be recognised: at first it looks like its parent."""
    wait_for(lambda: len(set(servers()) - set(others)) == 1, 10)
    (server,) = set(servers()) - set(others)
    return server


@pytest.fixture
def shared(_shared: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of all tests that do not end it."""
    for name, value in _shared.items():
        monkeypatch.setenv(name, value)


def test_it_starts_processes_that_have_imported_torch(shared: None) -> None:
    assert answer("torch") is True
    server = the_server()
    assert server in answer("parents")


def test_a_process_is_where_its_stage_is_and_finds_the_same_modules(
    shared: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    assert answer("folder") == str(tmp_path)
    assert answer("path") == sys.path


def test_it_refuses_what_has_other_sources(shared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has edited kdcache since the server imported it: the stage starts a server of its own."""
    server = the_server()
    assert server in answer("parents")
    monkeypatch.setattr(forking, "state_of_sources", lambda: "edited")
    parents = answer("parents")
    assert server not in parents
    assert os.getpid() in parents


def test_the_state_of_sources_changes_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "code.py").write_text("x = 1")
    monkeypatch.setattr(forking.kdcache, "__file__", str(tmp_path / "__init__.py"))
    before = forking.state_of_sources()
    assert forking.state_of_sources() == before
    (tmp_path / "code.py").write_text("x = 22")
    assert forking.state_of_sources() != before


def test_without_the_server_a_stage_starts_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARED, str(tmp_path / "gone"))
    run_trials(plans(tmp_path, 3), touch, workers=2)
    assert seeds(tmp_path) == [0, 1, 2]


def test_where_no_socket_can_be_there_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with SharedServer() as server:
        assert server.start() == {}
    assert list(long.iterdir()) == []


def test_how_a_process_ended_is_told(shared: None) -> None:
    for code, how in ((0, "exit code 0"), (3, "exit code 3")):
        started = start(leave, (code,))
        with pytest.raises(EOFError):
            started.receive()
        assert started.end() == how
    started = start(tell, ("parents",))
    started.receive()
    (worker,) = [p for p in psutil.Process(the_server()).children(recursive=True) if not p.children()][-1:]
    worker.kill()
    with pytest.raises(EOFError):
        started.receive()
    assert started.end() == "killed by SIGKILL"


def leave(pipe, code):
    os._exit(code)


def test_its_processes_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    others = servers()
    with SharedServer() as server:
        monkeypatch.setenv(SHARED, server.start()[SHARED])
        started = start(tell, ("parents",))
        started.receive()
        family = psutil.Process(the_server(*others)).children(recursive=True)
        assert len(family) >= 2
    wait_for(lambda: not any(process.is_running() for process in family), 10)
    assert servers() == others
    started.pipe.close()


def test_it_ends_when_the_run_that_started_it_is_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, time; from kdcache.engine.shared_server import SharedServer\n"
        "with SharedServer() as server: server.start(); time.sleep(600)"
    )
    run = psutil.Popen([sys.executable, "-c", code])
    wait_for(lambda: bool(run.children()), 60)
    (server,) = run.children()
    run.kill()
    run.wait()
    wait_for(lambda: not alive(server.pid), 10)


def wait_then_touch(plan: TrialPlan) -> None:
    tell_pid(plan)
    (plan.task_folder / "begun").touch()
    time.sleep(1)


def test_a_killed_server_costs_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers go on; the next ones are forked from a server of the stage's own."""
    others = servers()
    with SharedServer() as started:
        monkeypatch.setenv(SHARED, started.start()[SHARED])
        server = the_server(*others)

        def kill() -> None:
            wait_for((tmp_path / "begun").exists, 60)
            os.kill(server, signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        run_trials(plans(tmp_path, 2), wait_then_touch, workers=2)
        killer.join(10)
        run_trials(plans(tmp_path / "more", 2), touch, workers=2)
    assert seeds(tmp_path) == seeds(tmp_path / "more") == [0, 1]
