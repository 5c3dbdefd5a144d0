"""The Ray engine on a cluster of two machines: two of Ray's nodes on this one, of which one is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdcache.engine import run_trials
from kdcache.trials.plan import TrialPlan
from tests.engine.plans import plans, seeds, touch, wait_for, write

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'kdcache[ray]'")


@pytest.fixture
def machines(_ray_of_a_test: None) -> Iterator[tuple[Any, Any]]:
    """The cluster, and its second machine, which has two of the three CPUs."""
    from ray.cluster_utils import Cluster

    size = {"object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **size})
    try:
        second = cluster.add_node(num_cpus=2, **size)
        ray.init(address=cluster.address)
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


def on(machine: str, folder: Path) -> list[int]:
    """The seeds that were begun there."""
    return sorted(int(path.name.split()[0]) for path in folder.glob(f"* on {machine}"))


def wait_on_the_second(plan: TrialPlan) -> None:
    """For ever; on the first machine it is done, but not before two trials have begun on the second."""
    here, second = ray.get_runtime_context().get_node_id(), (plan.task_folder / "second").read_text()
    write(plan.task_folder / f"{plan.seed} on {here}", "")
    touch(plan)
    if here == second:
        time.sleep(600)
    wait_for(lambda: len(on(second, plan.task_folder)) == 2, 120)


def test_the_trials_of_a_lost_machine_are_done_on_another(tmp_path: Path, machines: tuple[Any, Any]) -> None:
    cluster, second = machines
    (tmp_path / "second").write_text(second.node_id)

    def lose() -> None:
        wait_for(lambda: len(on(second.node_id, tmp_path)) == 2, 120)
        cluster.remove_node(second, allow_graceful=False)

    losing = threading.Thread(target=lose)
    losing.start()
    run_trials(plans(tmp_path, 4), wait_on_the_second, engine="ray")
    losing.join()
    assert seeds(tmp_path) == [0, 1, 2, 3]
    assert on(cluster.head_node.node_id, tmp_path) == [0, 1, 2, 3]
