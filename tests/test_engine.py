from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcache.engine import run_trials, worker_count
from kdcache.errors import TrialError
from kdcache.params import Regularizer, Student
from kdcache.trials import TrialPlan


def plan(folder: Path, seed: int) -> TrialPlan:
    return TrialPlan(
        folder=folder / f"seed-{seed}",
        identity=str(seed),
        task="rte",
        task_folder=folder,
        student="tiny",
        model=Student(checkpoint="x", learning_rate=0.1, epochs=1, batch_size=1),
        regularizer="base",
        method=Regularizer(),
        seed=seed,
        soft_labels=(),
        keep_train_logits=False,
    )


def touch(plan: TrialPlan) -> None:
    plan.folder.mkdir(parents=True)


def fail_on_odd_seeds(plan: TrialPlan) -> None:
    if plan.seed % 2:
        raise TrialError(f"seed {plan.seed} is odd")
    touch(plan)


def die_on_seed_1(plan: TrialPlan) -> None:
    if plan.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    touch(plan)


class Unpicklable(Exception):
    """Like some of the hub's errors, it cannot be made from its message alone."""

    def __init__(self, code: int, place: str) -> None:
        super().__init__(f"code {code} in {place}")


def break_on_seed_1(plan: TrialPlan) -> None:
    if plan.seed == 1:
        raise Unpicklable(7, "the deep")
    touch(plan)


def tell_pid_and_wait(plan: TrialPlan) -> None:
    touch(plan)
    (plan.folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_plan_is_run(tmp_path: Path, workers: int) -> None:
    run_trials([plan(tmp_path, seed) for seed in range(4)], touch, workers)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"seed-{seed}" for seed in range(4)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_named_and_the_others_finish(tmp_path: Path, workers: int) -> None:
    with pytest.raises(TrialError) as caught:
        run_trials([plan(tmp_path, seed) for seed in range(4)], fail_on_odd_seeds, workers)
    assert str(caught.value).startswith("2 of 4 trials failed:")
    assert "rte / tiny / base / seed 1: seed 1 is odd" in str(caught.value)
    assert "rte / tiny / base / seed 3: seed 3 is odd" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-0", "seed-2"]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unexpected_error_names_its_trial_keeps_its_traceback_and_stops_no_other(
    tmp_path: Path, workers: int
) -> None:
    with pytest.raises(TrialError) as caught:
        run_trials([plan(tmp_path, seed) for seed in range(3)], break_on_seed_1, workers)
    assert str(caught.value).startswith(
        "1 of 3 trials failed:\n  rte / tiny / base / seed 1: an unexpected error"
    )
    assert "in break_on_seed_1" in str(caught.value)
    assert "Unpicklable: code 7 in the deep" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-0", "seed-2"]


def test_processes_that_train_together_stop_at_the_first_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrialError, match=r"^rte / tiny / base / seed 1: seed 1 is odd$"):
        run_trials([plan(tmp_path, seed) for seed in range(4)], fail_on_odd_seeds)
    assert [path.name for path in tmp_path.iterdir()] == ["seed-0"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_stage_that_holds_the_lock(tmp_path: Path, ending: signal.Signals) -> None:
    code = (
        "from pathlib import Path; from kdcache.engine import run_trials; from tests import test_engine as t; "
        f"run_trials([t.plan(Path({str(tmp_path)!r}), seed) for seed in (0, 1)], t.tell_pid_and_wait, 2)"
    )
    stage = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    files = [tmp_path / f"seed-{seed}" / "pid" for seed in (0, 1)]
    try:
        _wait(lambda: all(file.exists() and file.read_text() for file in files), 120)
        stage.send_signal(ending)
        assert stage.wait(10) == -ending
        _wait(lambda: not any(alive(int(file.read_text())) for file in files), 10)
    finally:
        stage.kill()
        stage.wait()


def test_ctrl_c_ends_stage_and_workers_at_once(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from kdcache.engine import run_trials; from tests import test_engine as t; "
        f"run_trials([t.plan(Path({str(tmp_path)!r}), seed) for seed in range(4)], t.tell_pid_and_wait, 2)"
    )
    stage = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE)
    files = [tmp_path / f"seed-{seed}" / "pid" for seed in (0, 1)]
    try:
        _wait(lambda: all(file.exists() and file.read_text() for file in files), 120)
        os.killpg(stage.pid, signal.SIGINT)
        assert stage.wait(30) != 0
        assert not (tmp_path / "seed-2").exists()
        assert not (tmp_path / "seed-3").exists()
    finally:
        stage.kill()
        stage.wait()


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_worker_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="seed 1: its worker process died"):
        run_trials([plan(tmp_path, seed) for seed in range(2)], die_on_seed_1, workers=2)


def test_nothing_to_run_is_no_error() -> None:
    run_trials([], fail_on_odd_seeds)


def test_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_WORKERS", "3")
    assert worker_count() == 3
    monkeypatch.setenv("WORLD_SIZE", "2")  # under `accelerate launch` the processes share each trial
    assert worker_count() == 1
    monkeypatch.delenv("WORLD_SIZE")
    for bad in ("0", "-1", "many", ""):
        monkeypatch.setenv("KDCACHE_WORKERS", bad)
        with pytest.raises(TrialError, match="KDCACHE_WORKERS must be a whole number above 0"):
            worker_count()
