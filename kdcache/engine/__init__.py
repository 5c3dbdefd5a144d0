"""Run missing trials: in this process, in several worker processes of this machine, or on a Ray cluster.

`run_trials` is the one interface. The engine and the number of trials at the same time change when a trial ends, never
its result. A worker that dies (killed, out of memory) interrupts only its own trial. That trial is tried once more.

    resources.py   how many trials at once, on how many threads, on which GPU
    pool.py        hands out plans, retries the trial of a dead worker, gathers failures
    local.py       worker processes on this machine
    forking.py     how such a process is started, with torch imported already
    shared_server.py  starts them for all stages of one `kdcache repro`
    teaching.py    makes a teacher or its logits if they are missing
    tuning/        finds each method's best setting, on rows held out of train
    slots.py       places on this machine, shared by stages that run at the same time
    ray.py         tasks on a Ray cluster
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdcache.engine import slots
from kdcache.engine.local import Workers, default_workers, modelling_modules
from kdcache.engine.pool import Pool, Run, run_here, run_in
from kdcache.engine.resources import (
    THREADS,
    WORKERS,
    share_cores,
    threads_per_trial,
    use_threads,
    workers_asked_for,
)
from kdcache.errors import TrialError

if TYPE_CHECKING:
    from kdcache.trials.plan import TrialPlan
from kdcache.system import processes

__all__ = [
    "ENGINE",
    "ENGINES",
    "THREADS",
    "WORKERS",
    "run_trials",
    "share_cores",
    "slots",
    "threads_per_trial",
    "worker_count",
]

log = logging.getLogger(__name__)

ENGINE = "KDCACHE_ENGINE"
ENGINES = ("local", "ray")


def run_trials(
    plans: Sequence[TrialPlan],
    run: Run | None = None,
    workers: int | None = None,
    engine: str | None = None,
) -> None:
    """Run every plan. If some fail, the others still run, and one error names those that failed.

    Args:
        run: runs one plan; default `kdcache.trials.run.run_trial`.
        workers: trials at once; default: `KDCACHE_WORKERS`. Without it: one per GPU, or one per CPU core if there is no
            GPU; on Ray as many as fit. With 1, trials run in this process.
        engine: "local" or "ray"; default: `KDCACHE_ENGINE`. Without it: "ray" if `RAY_ADDRESS` is set, else "local".

    Raises:
        TrialError: trials failed (the message gives each one's reason, with the traceback of an unexpected error), or
            the engine is not available.
    """
    if not plans:
        return
    run, engine, workers = run or _run_trial, _engine(engine), _workers(workers)
    if engine == "local" and workers == 1:
        use_threads(threads_per_trial(1))
        log.info("%d trials to run, one at a time", len(plans))
        with slots.hold_one(1):
            failures = run_here(plans, run)
    else:
        with _pool(engine, run, workers, plans) as pool:
            log.info("%d trials to run, %s", len(plans), pool)
            failures = run_in(pool, plans)
    if failures:
        raise TrialError("\n".join([f"{len(failures)} of {len(plans)} trials failed:", *failures]))


def worker_count() -> int:
    """How many trials run at once on this machine, on `threads_per_trial` threads each.

    Raises:
        TrialError: KDCACHE_WORKERS is not a whole number above 0.
    """
    return _workers(None) or default_workers()


def _workers(number: int | None) -> int | None:
    if processes.count() > 1:
        return 1  # the processes of `accelerate launch` train each trial together
    return number or workers_asked_for()


def _pool(engine: str, run: Run, workers: int | None, plans: Sequence[TrialPlan]) -> Pool:
    if engine == "ray":
        from kdcache.engine.ray import RayTasks

        return RayTasks(run, workers)
    return Workers(run, workers, len(plans), modelling_modules({plan.model for plan in plans}))


def _engine(name: str | None) -> str:
    """The engine that the argument or the environment names."""
    by_default = "ray" if os.environ.get("RAY_ADDRESS") else "local"
    name = name or os.environ.get(ENGINE) or by_default
    if name not in ENGINES:
        raise TrialError(f"{ENGINE} must be one of {', '.join(ENGINES)}, found {name!r}")
    if name == "ray" and processes.count() > 1:
        raise TrialError(
            "the processes of `accelerate launch` train each trial together and cannot hand it to Ray: set "
            f"{ENGINE}=local, or start the stage without the launcher"
        )
    return name


def _run_trial(plan: TrialPlan) -> None:
    from kdcache.trials.run import run_trial  # imported here, since only the workers need it

    run_trial(plan)
