from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdcache.engine import run_trials, worker_count
from kdcache.errors import TrialError
from tests.engine.plans import break_on_seed_1, fail_on_odd_seeds, plans, seeds, touch
from tests.engine.training import same_numbers, train_with, workspace


@pytest.mark.parametrize("workers", [1, 2])
def test_every_plan_is_run(tmp_path: Path, workers: int) -> None:
    run_trials(plans(tmp_path, 4), touch, workers)
    assert seeds(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_named_and_the_others_finish(tmp_path: Path, workers: int) -> None:
    with pytest.raises(TrialError) as caught:
        run_trials(plans(tmp_path, 4), fail_on_odd_seeds, workers)
    assert str(caught.value).splitlines() == [
        "2 of 4 trials failed:",
        "  rte / tiny / base / seed 1: seed 1 is odd",
        "  rte / tiny / base / seed 3: seed 3 is odd",
    ]
    assert seeds(tmp_path) == [0, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unexpected_error_names_its_trial_keeps_its_traceback_and_stops_no_other(
    tmp_path: Path, workers: int
) -> None:
    with pytest.raises(TrialError) as caught:
        run_trials(plans(tmp_path, 3), break_on_seed_1, workers)
    assert str(caught.value).startswith(
        "1 of 3 trials failed:\n  rte / tiny / base / seed 1: an unexpected error"
    )
    assert "in break_on_seed_1" in str(caught.value)
    assert "Unpicklable: code 7 in the deep" in str(caught.value)
    assert seeds(tmp_path) == [0, 2]


def test_processes_that_train_together_stop_at_the_first_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrialError, match=r"^rte / tiny / base / seed 1: seed 1 is odd$"):
        run_trials(plans(tmp_path, 4), fail_on_odd_seeds, workers=3)
    assert seeds(tmp_path) == [0]


def test_nothing_to_run_is_no_error() -> None:
    run_trials([], fail_on_odd_seeds)


def test_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_WORKERS", "3")
    assert worker_count() == 3
    monkeypatch.setenv("WORLD_SIZE", "2")  # under `accelerate launch` the processes share each trial
    assert worker_count() == 1
    monkeypatch.delenv("WORLD_SIZE")
    for bad in ("0", "-1", "many", "", "1.5"):
        monkeypatch.setenv("KDCACHE_WORKERS", bad)
        with pytest.raises(TrialError, match="KDCACHE_WORKERS must be a whole number above 0"):
            worker_count()


def test_the_engine_is_chosen_by_argument_then_variable_then_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    for variables in ({"KDCACHE_ENGINE": "ray"}, {"RAY_ADDRESS": "10.0.0.1:6379"}):
        with monkeypatch.context() as here:
            for name, value in variables.items():
                here.setenv(name, value)
            with pytest.raises(TrialError, match=r"not installed: pip install 'kdcache\[ray\]', or set"):
                run_trials(plans(tmp_path, 1), touch, workers=1)
            run_trials(plans(tmp_path / f"{len(variables)}-{name}", 1), touch, workers=1, engine="local")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("KDCACHE_ENGINE", "slurm")
    with pytest.raises(TrialError, match="KDCACHE_ENGINE must be one of local, ray, found 'slurm'"):
        run_trials(plans(tmp_path, 1), touch)
    monkeypatch.setenv("KDCACHE_ENGINE", "local")
    run_trials(plans(tmp_path, 1), touch, workers=1)
    assert seeds(tmp_path) == [0]


def test_a_cluster_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("could not find any running Ray instance")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with pytest.raises(
        TrialError, match=r"^no Ray cluster can be used at auto \(RAY_ADDRESS\): could not find"
    ):
        run_trials(plans(tmp_path, 1), touch)


def test_processes_that_train_together_cannot_use_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(TrialError, match="set KDCACHE_ENGINE=local, or start the stage without the launcher"):
        run_trials(plans(tmp_path, 1), touch)


def test_workers_get_the_numbers_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace(tmp_path, monkeypatch)
    here = train_with("--workers", "1")
    same_numbers(here, train_with("--workers", "2"))
