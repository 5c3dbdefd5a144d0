"""Places that processes share: never more at once than there are, and none lost with a killed process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import AbstractContextManager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from kdcache.engine import local, run_trials, slots
from kdcache.trials.plan import TrialPlan
from tests.engine.plans import plan
from tests.engine.plans import wait_for as wait_until

CONTEXT = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "slots").mkdir()
    monkeypatch.setenv(slots.SLOTS, str(tmp_path / "slots"))
    return tmp_path


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def tries(mark: Path) -> Path:
    return mark.with_suffix(".tries")


def waits(mark: Path) -> bool:
    """Whether the process of that mark asks for its place and does not get it."""
    wait_for(tries(mark))
    time.sleep(0.3)
    return not mark.exists()


def hold(place: AbstractContextManager[object], mark: Path, until: Path) -> None:
    tries(mark).touch()
    with place:
        mark.touch()
        wait_for(until)


def hold_one(count: int, mark: Path, until: Path) -> None:
    hold(slots.hold_one(count), mark, until)


def hold_every(mark: Path, until: Path) -> None:
    hold(slots.hold_all(), mark, until)


def start(target: object, *arguments: object) -> BaseProcess:
    process = CONTEXT.Process(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
    process.start()
    return process


def test_a_third_waits_for_one_of_two_places(folder: Path) -> None:
    go = [folder / f"go-{index}" for index in range(3)]
    first = start(hold_one, 2, folder / "first", go[0])
    second = start(hold_one, 2, folder / "second", go[1])
    wait_for(folder / "first")
    wait_for(folder / "second")
    third = start(hold_one, 2, folder / "third", go[2])
    assert waits(folder / "third")
    go[1].touch()
    wait_for(folder / "third")
    go[0].touch()
    go[2].touch()
    for process in (first, second, third):
        process.join()
        assert process.exitcode == 0


def test_a_killed_process_frees_its_place(folder: Path) -> None:
    killed = start(hold_one, 1, folder / "killed", folder / "never")
    wait_for(folder / "killed")
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    with slots.hold_one(1):
        pass


def test_the_whole_machine_waits_for_trials_and_keeps_new_ones_off(folder: Path) -> None:
    trial = start(hold_one, 3, folder / "trial", folder / "trial-go")
    wait_for(folder / "trial")
    teacher = start(hold_every, folder / "teacher", folder / "teacher-go")
    assert waits(folder / "teacher")
    (folder / "trial-go").touch()
    wait_for(folder / "teacher")
    later = start(hold_one, 3, folder / "later", folder / "later-go")
    assert waits(folder / "later")
    (folder / "teacher-go").touch()
    wait_for(folder / "later")
    (folder / "later-go").touch()
    for process in (trial, teacher, later):
        process.join()
        assert process.exitcode == 0


def hold_some(wanted: int, count: int, mark: Path, until: Path) -> None:
    hold(slots.hold_some(wanted, count), mark, until)


def test_two_of_three_places_leave_one(folder: Path) -> None:
    teacher = start(hold_some, 2, 3, folder / "teacher", folder / "teacher-go")
    wait_for(folder / "teacher")
    assert [free(f"place-{place}") for place in range(3)] == [False, False, True]
    with slots.hold_one(3) as place:
        assert place == 2
        second = start(hold_some, 2, 3, folder / "second", folder / "second-go")
        assert waits(folder / "second")
        (folder / "teacher-go").touch()
        wait_for(folder / "second")
    (folder / "second-go").touch()
    for process in (teacher, second):
        process.join()
        assert process.exitcode == 0
    assert [free(f"place-{place}") for place in range(3)] == [True] * 3


def test_more_places_than_there_are_is_all_of_them(folder: Path) -> None:
    with slots.hold_some(9, 2):
        assert [free(f"place-{place}") for place in range(2)] == [False, False]
    assert free("place-0")


def free(place: str) -> bool:
    try:
        with FileLock(Path(os.environ[slots.SLOTS]) / place).acquire(timeout=0):
            return True
    except Timeout:
        return False


def find_a_place_taken(_: TrialPlan) -> None:
    assert not (free("place-0") and free("place-1"))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_trial_holds_a_place(workers: int) -> None:
    run_trials([plan(Path("x"), seed) for seed in range(2)], find_a_place_taken, workers)
    assert free("place-0")


def leave_a_place_when_there_is_no_trial_left(plan: TrialPlan) -> None:
    if plan.seed == 1:
        wait_until(lambda: free("place-0") or free("place-1"), 60)


def test_a_worker_gives_its_place_up_when_its_stage_has_no_trial_left_for_it() -> None:
    plans = [plan(Path("x"), seed) for seed in range(2)]
    run_trials(plans, leave_a_place_when_there_is_no_trial_left, workers=2)


def tell_gpu(plan: TrialPlan) -> None:
    (plan.task_folder / "gpu").write_text(os.environ["CUDA_VISIBLE_DEVICES"])


def test_the_place_decides_the_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "visible_gpus", lambda: ["3", "GPU-b"])
    with slots.hold_one(2) as place:  # another stage's only trial
        assert place == 0
        run_trials([plan(folder, 0)], tell_gpu, workers=2)
    assert (folder / "gpu").read_text() == "GPU-b"


def test_processes_that_train_together_take_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with slots.hold_one(1):
        assert not free("place-0")
        monkeypatch.setenv("RANK", "1")
        with slots.hold_one(1), slots.hold_some(2, 2), slots.hold_all():
            pass


def test_nothing_is_waited_for_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(slots.SLOTS)
    with slots.hold_one(1), slots.hold_one(1), slots.hold_some(1, 1), slots.hold_all(), slots.hold_all():
        pass
