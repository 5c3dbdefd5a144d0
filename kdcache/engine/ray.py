"""Trials as tasks on a Ray cluster whose machines share a file system.

RAY_ADDRESS names the cluster (`ray job submit` sets it). Without it, a Ray on this machine is used, or started. Each
task reserves a CPU for each of its threads, and the share KDCACHE_GPUS_PER_TRIAL of a GPU. Each task carries its
folder, modules and number of threads, so that it computes the same as a local worker process.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.engine.pool import Lost, Outcome, Pool, Run, attempt
from kdcache.engine.resources import cores, gpus_per_trial, settings, threads_per_trial, use_threads
from kdcache.errors import TrialError

if TYPE_CHECKING:
    from kdcache.trials.plan import TrialPlan

log = logging.getLogger(__name__)

SECRETS = ("HF_TOKEN",)  # sent with the task: Ray writes a runtime environment's variables into its logs
UNLIMITED = 1 << 30


class RayTasks(Pool):
    """Tasks on a Ray cluster. The cluster queues them until a machine has room.

    Args:
        workers: trials at once; default: as many as fit.

    Raises:
        TrialError: Ray is not installed, or RAY_ADDRESS names no cluster.
    """

    def __init__(self, run: Run, workers: int | None) -> None:
        self._ray = _ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _connect(self._ray)
        self._at_once = workers or UNLIMITED
        self._threads = threads_per_trial(workers or cores())
        self._gpus = self._gpu_share()
        self._task = self._ray.remote(
            num_cpus=self._threads,
            num_gpus=self._gpus,
            max_retries=0,  # the pool itself retries a lost trial once
            runtime_env={"env_vars": _environment(self._threads)},
        )(_work)
        self._run = self._ray.put(run)
        self._secrets = self._ray.put({name: os.environ[name] for name in SECRETS if name in os.environ})
        self._running: dict[Any, TrialPlan] = {}

    def __str__(self) -> str:
        return f"on Ray; each reserves CPUs: {self._threads}, GPUs: {self._gpus:g}"

    @property
    def room(self) -> int:
        return self._at_once - len(self._running)

    def start(self, plan: TrialPlan) -> None:
        task = self._task.options(name=plan.name)
        reference = task.remote(self._run, plan, os.getcwd(), self._threads, self._secrets)
        self._running[reference] = plan

    def next(self) -> tuple[TrialPlan, Outcome]:
        errors = self._ray.exceptions
        lost = (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.ObjectLostError,
        )
        [ready], _ = self._ray.wait(list(self._running), num_returns=1)
        plan = self._running.pop(ready)
        try:
            outcome: Outcome = self._ray.get(ready)
        except lost as error:
            outcome = Lost(f"{type(error).__name__} says Ray")
        except errors.RayError as error:
            outcome = f"Ray could not run it: {error}"
        return plan, outcome

    def close(self) -> None:
        for task in self._running:
            self._ray.cancel(task, force=True)
        if self._ours:
            self._ray.shutdown()

    def _gpu_share(self) -> float:
        """The share of a GPU that the user asks for. Default: a whole GPU if the cluster has any, else none."""
        share = gpus_per_trial()
        return float(self._ray.cluster_resources().get("GPU", 0) > 0) if share is None else share


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise TrialError(
            "trials are to run on Ray (KDCACHE_ENGINE or RAY_ADDRESS says so), which is not installed: "
            "pip install 'kdcache[ray]', or set KDCACHE_ENGINE=local"
        ) from None
    return ray


def _connect(ray: Any) -> None:
    os.environ.setdefault(
        "RAY_USAGE_STATS_ENABLED", "0"
    )  # a Ray that is started here sends no usage statistics
    try:
        ray.init(include_dashboard=False, logging_level=logging.WARNING, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        place = os.environ.get("RAY_ADDRESS", "this machine")
        raise TrialError(f"no Ray cluster can be used at {place} (RAY_ADDRESS): {error}") from error


def _environment(threads: int) -> dict[str, str]:
    """Variables for the workers: this process's variables that a trial may depend on, and the path of its modules."""
    passed = {name: value for name, value in settings().items() if name not in SECRETS}
    modules = [str(Path(entry).resolve()) for entry in sys.path]  # "" means the current folder
    return {"OMP_NUM_THREADS": str(threads), **passed, "PYTHONPATH": os.pathsep.join(modules)}


def _work(run: Run, plan: TrialPlan, folder: str, threads: int, secrets: dict[str, str]) -> str | None:
    """Run a plan in the stage's folder. A worker on any machine of the cluster calls this."""
    try:
        os.chdir(folder)
    except OSError as error:
        return f"{platform.node()} cannot use {folder} ({error.strerror}): all machines need the same shared folder"
    os.environ.update(secrets)
    use_threads(threads)
    return attempt(run, plan)
