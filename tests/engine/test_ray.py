"""The Ray engine on a Ray of this machine, which believes that it has three CPUs and a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdcache.engine import run_trials
from kdcache.errors import TrialError
from kdcache.trials.plan import TrialPlan
from tests.engine.plans import (
    alive,
    die_on_seed_1,
    die_once_on_odd_seeds,
    fail_on_odd_seeds,
    plan,
    plans,
    seeds,
    touch,
    wait_for,
    write,
)
from tests.engine.training import same_numbers, train_with, workspace
from tests.launching import ROOT

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'kdcache[ray]'")

MODULE = """
def run(plan):
    plan.folder.mkdir(parents=True)
"""


@pytest.fixture(scope="module", autouse=True)
def _cluster(_ray_of_a_test: None) -> Iterator[None]:
    # local: never the cluster of another test that runs at the same time
    ray.init("local", num_cpus=3, num_gpus=1, object_store_memory=80 << 20, include_dashboard=False)
    yield
    ray.shutdown()


def test_what_fails_or_dies_is_named_and_the_others_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_GPUS_PER_TRIAL", "0")  # else one trial after the other, on the only GPU
    with pytest.raises(TrialError) as failed:
        run_trials(plans(tmp_path / "failed", 4), fail_on_odd_seeds, engine="ray")
    assert str(failed.value).splitlines()[1:] == [
        "  rte / tiny / base / seed 1: seed 1 is odd",
        "  rte / tiny / base / seed 3: seed 3 is odd",
    ]
    with pytest.raises(TrialError) as died:
        run_trials(plans(tmp_path / "died", 3), die_on_seed_1, engine="ray")
    assert str(died.value).splitlines()[0] == "1 of 3 trials failed:"
    assert "seed 1: its worker process died, twice (WorkerCrashedError says Ray)" in str(died.value)
    assert (seeds(tmp_path / "failed"), seeds(tmp_path / "died")) == ([0, 2], [0, 2])


def test_a_trial_that_loses_its_worker_once_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_GPUS_PER_TRIAL", "0")
    run_trials(plans(tmp_path, 4), die_once_on_odd_seeds, engine="ray", workers=2)
    assert seeds(tmp_path) == [0, 1, 2, 3]


def test_workers_find_the_stage_s_folder_and_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import only_here  # type: ignore[import-not-found]

    run_trials([plan(Path("trials"), 0)], only_here.run, engine="ray")
    assert seeds(tmp_path / "trials") == [0]


def tell_token(plan: TrialPlan) -> None:
    touch(plan)
    write(plan.folder / "told", os.environ["HF_TOKEN"])


def test_workers_have_the_hub_s_token_and_no_log_of_ray_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not-for-logs")
    monkeypatch.setenv("TOKENIZERS_OF_THIS_TEST", "1")
    run_trials([plan(tmp_path, 0)], tell_token, engine="ray")
    assert (tmp_path / "seed-0" / "told").read_text() == "hf_not-for-logs"
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())

    def having(text: str) -> list[str]:
        files = [path for path in logs.iterdir() if path.is_file()]
        return [path.name for path in files if text in path.read_text(errors="replace")]

    # What a runtime environment has is in them, perhaps a little later.
    wait_for(lambda: bool(having("TOKENIZERS_OF_THIS_TEST")), 30)
    assert having("hf_not-for-logs") == []


def test_a_machine_without_the_folder_says_so(tmp_path: Path) -> None:
    from kdcache.engine.ray import _work

    told = _work(touch, plan(tmp_path, 0), str(tmp_path / "away"), 1, {})
    assert told is not None
    assert f"cannot use {tmp_path / 'away'} (No such file or directory): all machines need the same" in told


def tell_resources(plan: TrialPlan) -> None:
    touch(plan)
    given = ray.get_runtime_context().get_assigned_resources()
    own = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "RAYON_NUM_THREADS")}
    write(plan.folder / "told", json.dumps(given | own))


def test_each_trial_reserves_its_threads_and_its_share_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_THREADS", "2")
    run_trials([plan(tmp_path, 0)], tell_resources, engine="ray")
    monkeypatch.setenv("KDCACHE_GPUS_PER_TRIAL", "0.25")
    run_trials([plan(tmp_path, 1)], tell_resources, engine="ray")
    own = {"CUDA_VISIBLE_DEVICES": "0", "RAYON_NUM_THREADS": "2"}
    told = [json.loads((tmp_path / f"seed-{seed}" / "told").read_text()) for seed in (0, 1)]
    assert told == [{"CPU": 2.0, "GPU": share, **own} for share in (1.0, 0.25)]


def test_the_numbers_are_those_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace(tmp_path, monkeypatch)
    same_numbers(train_with("--workers", "1"), train_with("--engine", "ray"))


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_tasks_end_with_the_stage_and_the_cluster_stays(tmp_path: Path, ending: signal.Signals) -> None:
    code = (
        "from pathlib import Path; from kdcache.engine import run_trials; from tests.engine.plans import *; "
        f"run_trials(plans(Path({str(tmp_path)!r}), 3), tell_pid_and_wait, workers=2)"
    )
    address = ray.get_runtime_context().gcs_address
    environment = {
        **os.environ,
        "RAY_ADDRESS": address,
        "PYTHONPATH": str(ROOT),
        "KDCACHE_GPUS_PER_TRIAL": "0",
    }
    stage = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        files = [tmp_path / f"seed-{seed}" / "pid" for seed in (0, 1)]
        wait_for(lambda: all(file.exists() for file in files), 120)
        os.killpg(stage.pid, ending)
        assert stage.wait(30) != 0
        wait_for(lambda: not any(alive(int(file.read_text())) for file in files), 30)
        assert seeds(tmp_path) == [0, 1]
    finally:
        stage.kill()
        stage.wait()
    assert ray.cluster_resources()["CPU"] == 3
