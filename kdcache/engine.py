"""Run missing trials, in this process or several at once on this machine.

`run_trials` is the one interface: which engine runs a trial changes when it ends, never what comes out.
`KDCACHE_WORKERS=N` runs N trials at once (default: as many as there are CPU cores; one on a GPU); each worker gets
its share of the cores, so that N workers never oversubscribe the machine.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from kdcache.errors import KdcacheError, TrialError
from kdcache.trials import TrialPlan

log = logging.getLogger(__name__)

Run = Callable[[TrialPlan], None]

WORKERS = "KDCACHE_WORKERS"


def run_trials(plans: Sequence[TrialPlan], run: Run | None = None, workers: int | None = None) -> None:
    """Run every plan; when some fail, the others still run, and one error names the failed ones.

    Args:
        run: what runs one plan; default `kdcache.experiment.run_trial`.
        workers: trials at once; default `KDCACHE_WORKERS`, else one per core, or one when there is a GPU.

    Raises:
        TrialError: trials failed; the message names each with its reason.
    """
    if not plans:
        return
    run = run or _default_run()
    count = min(len(plans), worker_count() if workers is None else workers)
    log.info("%d trials to run, %d at once", len(plans), count)
    failures = _run_here(plans, run) if count == 1 else _run_in_processes(plans, run, count)
    if failures:
        raise TrialError("\n".join([f"{len(failures)} of {len(plans)} trials failed:", *failures]))


def worker_count() -> int:
    """How many trials to run at once on this machine.

    Raises:
        TrialError: KDCACHE_WORKERS is not a whole number above 0.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return 1  # the processes of `accelerate launch` train each trial together
    text = os.environ.get(WORKERS)
    if text is None:
        import torch

        return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    if not text.isdigit() or int(text) == 0:
        raise TrialError(f"{WORKERS} must be a whole number above 0, found {text!r}")
    return int(text)


def _default_run() -> Run:
    from kdcache.experiment import run_trial

    return run_trial


def _run_here(plans: Sequence[TrialPlan], run: Run) -> list[str]:
    failures = []
    for done, plan in enumerate(plans, start=1):
        try:
            run(plan)
        except KdcacheError as error:
            failures.append(f"  {plan.name}: {error}")
        else:
            log.info("[%d/%d] %s", done, len(plans), plan.name)
    return failures


def _run_in_processes(plans: Sequence[TrialPlan], run: Run, workers: int) -> list[str]:
    # A fork server imports torch once and forks clean children from then on: forking this process could copy a
    # half-held lock, and spawning would import everything again in each worker.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdcache.experiment"])
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    failures, done = [], 0
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_set_threads, initargs=(threads,)
    ) as pool:
        futures: dict[Future[None], TrialPlan] = {pool.submit(run, plan): plan for plan in plans}
        for future in as_completed(futures):
            plan = futures[future]
            try:
                future.result()
            except BrokenProcessPool:
                failures.append(f"  {plan.name}: its worker process died (killed, or out of memory)")
            except KdcacheError as error:
                failures.append(f"  {plan.name}: {error}")
            else:
                done += 1
                log.info("[%d/%d] %s", done, len(plans), plan.name)
    return failures


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
