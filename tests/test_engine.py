from __future__ import annotations

import os
import signal
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
        soft_labels=None,
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
