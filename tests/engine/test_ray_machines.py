"""The Ray engine on a cluster of two machines: two of Ray's nodes on this one, of which one is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdcache.engine import run_trials
from kdcache.trials import TrialPlan
from tests.engine.plans import plans, seeds, touch, wait_for, write

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'kdcache[ray]'")


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The cluster, and its second machine, which has two of the three CPUs."""
    from ray.cluster_utils import Cluster

    for name, value in {"USAGE_STATS_ENABLED": "0", "AUTH_MODE": "disabled", "worker_niceness": "0"}.items():
        monkeypatch.setenv(f"RAY_{name}", value)
    size = {"object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **size})
    try:
        second = cluster.add_node(num_cpus=2, **size)
        ray.init(address=cluster.address)
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


def wait_on_the_second(plan: TrialPlan) -> None:
    """For ever; on the first machine it is done at once."""
    here = ray.get_runtime_context().get_node_id()
    write(plan.task_folder / f"{plan.seed} on {here}", "")
    touch(plan)
    if here == (plan.task_folder / "second").read_text():
        time.sleep(600)


def test_the_trials_of_a_lost_machine_are_done_on_another(tmp_path: Path, machines: tuple[Any, Any]) -> None:
    cluster, second = machines
    (tmp_path / "second").write_text(second.node_id)
    lost: list[str] = []

    def lose() -> None:
        wait_for(lambda: len(list(tmp_path.glob(f"* on {second.node_id}"))) == 2, 120)
        lost.extend(path.name.split()[0] for path in tmp_path.glob(f"* on {second.node_id}"))
        cluster.remove_node(second, allow_graceful=False)

    losing = threading.Thread(target=lose)
    losing.start()
    run_trials(plans(tmp_path, 4), wait_on_the_second, engine="ray")
    losing.join()
    assert seeds(tmp_path) == [0, 1, 2, 3]
    assert len(lost) == 2
    for seed in range(4):
        assert len(list(tmp_path.glob(f"{seed} on *"))) == (2 if str(seed) in lost else 1)
