"""Processes that are killed: a worker, the stage, all of them by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kdcache.engine import run_trials
from kdcache.engine.local import Workers
from kdcache.errors import TrialError
from kdcache.trials.plan import TrialPlan
from tests.engine.plans import (
    alive,
    die_on_seed_1,
    die_once_on_odd_seeds,
    plan,
    plans,
    seeds,
    tell_pid,
    touch,
    wait_for,
    write,
)

pytestmark = pytest.mark.usefixtures("server")

DEATHS = {2: 1, 3: 1, 5: 2, 7: 1, 11: 1}  # how often a seed's worker is killed


def test_a_trial_that_loses_its_worker_twice_is_named_and_the_others_finish(tmp_path: Path) -> None:
    with pytest.raises(TrialError) as caught:
        run_trials(plans(tmp_path, 5), die_on_seed_1, workers=2)
    first, second = str(caught.value).splitlines()
    assert first == "1 of 5 trials failed:"
    assert second.startswith(
        "  rte / tiny / base / seed 1: its worker process died, twice (killed by SIGKILL)"
    )
    assert seeds(tmp_path) == [0, 2, 3, 4]


def test_a_trial_that_loses_its_worker_once_is_done_again_from_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_trials(plans(tmp_path, 4), die_once_on_odd_seeds, workers=2)
    assert seeds(tmp_path) == [0, 1, 2, 3]
    assert sorted(caplog.messages) == [
        f"rte / tiny / base / seed {seed}: its worker died (killed by SIGKILL); the trial is tried once more"
        for seed in (1, 3)
    ]


def die_once_over_a_finished_trial(plan: TrialPlan) -> None:
    """As a worker does that trains a finished trial again for its model."""
    been_here = plan.task_folder / "been-here"
    assert (plan.folder / "result.json").read_text() == "finished"
    if not been_here.exists():
        been_here.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_finished_trial_outlives_its_worker(tmp_path: Path) -> None:
    for one in plans(tmp_path, 2):
        one.folder.mkdir()
        (one.folder / "result.json").write_text("finished")
    run_trials(plans(tmp_path, 2), die_once_over_a_finished_trial, workers=2)
    assert [(tmp_path / f"seed-{seed}" / "result.json").read_text() for seed in (0, 1)] == ["finished"] * 2


def wait_to_be_killed(plan: TrialPlan) -> None:
    """As often as the seed is to be; then the trial finishes, after a while."""
    before = len(list(plan.task_folder.glob(f"waiting-{plan.seed}-*")))
    if before < DEATHS.get(plan.seed, 0):
        write(plan.task_folder / f"waiting-{plan.seed}-{before}", str(os.getpid()))
        time.sleep(600)
    time.sleep(0.1)
    touch(plan)


def test_workers_are_killed_under_load(tmp_path: Path) -> None:
    killed: set[Path] = set()

    def kill() -> None:
        while len(killed) < sum(DEATHS.values()):
            for file in set(tmp_path.glob("waiting-*[0-9]")) - killed:
                os.kill(int(file.read_text()), signal.SIGKILL)
                killed.add(file)
            time.sleep(0.01)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(TrialError, match=r"1 of 14 trials failed:\n.*seed 5: its worker process died, twice"):
        run_trials(plans(tmp_path, 14), wait_to_be_killed, workers=4)
    killer.join(10)
    assert len(killed) == 6
    assert seeds(tmp_path) == [seed for seed in range(14) if seed != 5]


def test_a_worker_that_dies_between_two_trials_costs_none(tmp_path: Path) -> None:
    with Workers(tell_pid, workers=1, plans=2) as pool:
        pids = []
        for seed in (0, 1):
            pool.start(plan(tmp_path, seed))
            assert pool.next()[1] is None
            pids.append(int((tmp_path / f"seed-{seed}" / "pid").read_text()))
            os.kill(pids[-1], signal.SIGKILL)
            (worker,) = pool._idle
            assert worker.process.pipe.poll(10)  # its end is closed: all its threads are gone
    assert pids[0] != pids[1]


def stage(folder: Path, trials: int, imports: bool) -> subprocess.Popen[bytes]:
    """A process that runs trials which do not end, two at once; both have begun.

    Args:
        imports: whether a server of its own imports torch, as a stage's does. It takes seconds.
    """
    code = (
        "from pathlib import Path; from kdcache.engine import forking, local, run_trials; "
        "from tests.engine.plans import *; "
        f"{'' if imports else 'forking.PRELOAD, local.visible_gpus = (), list; '}"
        f"run_trials(plans(Path({str(folder)!r}), {trials}), tell_pid_and_wait, 2)"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: all((folder / f"seed-{seed}" / "pid").exists() for seed in (0, 1)), 120)
    return started


def workers_of(folder: Path) -> list[int]:
    return [int((folder / f"seed-{seed}" / "pid").read_text()) for seed in (0, 1)]


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_stage_that_holds_the_lock(
    tmp_path: Path, server: str, ending: signal.Signals
) -> None:
    started = stage(tmp_path, 2, imports=server == "shared" or ending == signal.SIGKILL)
    try:
        started.send_signal(ending)
        assert started.wait(10) == -ending
        wait_for(lambda: not any(map(alive, workers_of(tmp_path))), 10)
    finally:
        started.kill()
        started.wait()


@pytest.mark.parametrize("to_all", [True, False], ids=["Ctrl-C", "the stage alone"])
def test_an_interrupt_ends_stage_and_workers_at_once(tmp_path: Path, server: str, to_all: bool) -> None:
    started = stage(tmp_path, 4, imports=server == "shared")
    try:
        (os.killpg if to_all else os.kill)(started.pid, signal.SIGINT)
        assert started.wait(30) != 0
        assert not any(map(alive, workers_of(tmp_path)))
        assert seeds(tmp_path) == [0, 1]
    finally:
        started.kill()
        started.wait()
