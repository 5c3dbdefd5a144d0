from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from kdcache.engine import local, resources, run_trials, threads_per_trial
from kdcache.engine.resources import gpus_per_trial, use_threads
from kdcache.errors import TrialError
from tests.engine.plans import plans, tell_setting, tell_variables_together


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (20, 1)])
def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch, workers: int, threads: int) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 8)
    assert threads_per_trial(workers) == threads
    monkeypatch.setenv("KDCACHE_THREADS", "3")
    assert threads_per_trial(workers) == 3


@pytest.mark.parametrize("bad", ["0", "-1", "two", "", "1.5"])
def test_a_wrong_number_of_threads_is_an_error(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("KDCACHE_THREADS", bad)
    with pytest.raises(TrialError, match="KDCACHE_THREADS must be a whole number above 0"):
        threads_per_trial(1)


def test_a_share_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus_per_trial() is None
    for text, share in (("0", 0.0), ("0.25", 0.25), ("1", 1.0)):
        monkeypatch.setenv("KDCACHE_GPUS_PER_TRIAL", text)
        assert gpus_per_trial() == share
    for bad in ("2", "-0.5", "half", "", "nan"):
        monkeypatch.setenv("KDCACHE_GPUS_PER_TRIAL", bad)
        with pytest.raises(TrialError, match="KDCACHE_GPUS_PER_TRIAL must be a number from 0 to 1"):
            gpus_per_trial()


def test_threads_are_only_ever_lowered() -> None:
    before = torch.get_num_threads()
    use_threads(before + 3)
    assert torch.get_num_threads() == before
    use_threads(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def tell_two(pipe: Connection) -> None:
    pipe.send(2)


def end_at_once(pipe: Connection) -> None:
    os._exit(1)


def test_the_gpus_have_the_names_that_the_user_gave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_tell_gpus", tell_two)
    for listed, names in (("4,7", ["4", "7"]), ("GPU-a,GPU-b,-1,5", ["GPU-a", "GPU-b"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        assert local.visible_gpus() == names
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert local.visible_gpus() == ["0", "1"]


def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_tell_gpus", end_at_once)
    with pytest.raises(TrialError, match="a worker process cannot be started"):
        local.visible_gpus()


def test_by_default_there_is_a_worker_per_gpu_else_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: 8)
    assert local.default_workers(["0", "1"]) == 2
    assert local.default_workers([]) == 8
    assert len(local.visible_gpus()) == torch.cuda.device_count()


def test_workers_are_dealt_out_over_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "visible_gpus", lambda: ["3", "GPU-b"])
    monkeypatch.setenv("KDCACHE_THREADS", "5")
    run_trials(plans(tmp_path, 4), tell_variables_together, workers=4)
    told = {
        name: sorted(path.read_text() for path in tmp_path.glob(f"*/{name}")) for name in ("gpu", "threads")
    }
    assert told == {"gpu": ["3", "3", "GPU-b", "GPU-b"], "threads": ["5"] * 4}


ASK = """
import torch
asked = []
for name in ("is_available", "device_count", "init", "_lazy_init"):
    setattr(torch.cuda, name, lambda *_, name=name, real=getattr(torch.cuda, name): asked.append(name) or real())
import kdcache.trials.run
print(asked)
"""


def test_what_workers_are_forked_from_touches_no_gpu() -> None:
    """CUDA cannot be used after a fork of a process that has used it, nor be given another device."""
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_workers_have_the_stage_s_settings_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their fork server has those of when it was started, which may be another run's."""
    for value in ("first", None, "second"):
        monkeypatch.setenv("KDCACHE_TOLD", value) if value else monkeypatch.delenv("KDCACHE_TOLD")
        run_trials(plans(tmp_path / str(value), 2), tell_setting, workers=2)
        told = {path.read_text() for path in (tmp_path / str(value)).glob("*/told")}
        assert told == {str(value)}
