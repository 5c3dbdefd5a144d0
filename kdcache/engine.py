"""Run missing trials, in this process or several at once on this machine.

`run_trials` is the one interface: which engine runs a trial changes when it ends, never what comes out.
`KDCACHE_WORKERS=N` runs N trials at once (default: as many as there are CPU cores; one on a GPU). Each trial gets its
share of the cores, cores / N, however many trials are missing: the number of threads can change a result's last bits,
and a resumed run has to compute what an uninterrupted one would have.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

from kdcache import processes
from kdcache.errors import KdcacheError, TrialError
from kdcache.trials import TrialPlan

log = logging.getLogger(__name__)

Run = Callable[[TrialPlan], None]

WORKERS = "KDCACHE_WORKERS"
DIED = f"its worker process died, or another's did before it (killed, or out of memory: lower {WORKERS}); run again"


def run_trials(plans: Sequence[TrialPlan], run: Run | None = None, workers: int | None = None) -> None:
    """Run every plan; when some fail, the others still run, and one error names the failed ones.

    Args:
        run: what runs one plan; default `kdcache.experiment.run_trial`.
        workers: trials at once; default `KDCACHE_WORKERS`, else one per core, or one when there is a GPU.

    Raises:
        TrialError: trials failed; the message names each with its reason, and with the traceback of an error that is
            not meant for people.
    """
    if not plans:
        return
    run = run or _run_trial
    workers = worker_count() if workers is None else workers
    at_once = min(len(plans), workers)
    log.info("%d trials to run, %d at once", len(plans), at_once)
    if at_once == 1:
        share_cores(workers)
        failures = _run_here(plans, run)
    else:
        failures = _run_in_processes(plans, run, at_once, workers)
    if failures:
        raise TrialError("\n".join([f"{len(failures)} of {len(plans)} trials failed:", *failures]))


def worker_count() -> int:
    """How many trials to run at once on this machine.

    Raises:
        TrialError: KDCACHE_WORKERS is not a whole number above 0.
    """
    if processes.count() > 1:
        return 1  # the processes of `accelerate launch` train each trial together
    text = os.environ.get(WORKERS)
    if text is None:
        _fork_server()  # imports on another core while this process asks torch about GPUs
        import torch

        return 1 if torch.cuda.is_available() else cores()
    if not text.isdigit() or int(text) == 0:
        raise TrialError(f"{WORKERS} must be a whole number above 0, found {text!r}")
    return int(text)


def cores() -> int:
    """CPU cores that this process may use: its affinity and its container's limit count."""
    import joblib

    return int(joblib.cpu_count())


def share_cores(workers: int = 1) -> None:
    """Let torch use this process's share of the cores, when `workers` such processes run at once.

    A lower number of threads, such as the user's OMP_NUM_THREADS, stays.
    """
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), max(1, cores() // workers)))


def _run_trial(plan: TrialPlan) -> None:
    from kdcache.experiment import run_trial  # here: this process need not import it to have workers run it

    run_trial(plan)


def _attempt(run: Run, plan: TrialPlan) -> str | None:
    """Run one plan; None, or why it failed. A text, because not every exception survives the way between processes."""
    try:
        run(plan)
    except KdcacheError as error:
        return str(error)
    except Exception:
        return f"an unexpected error\n{traceback.format_exc()}"
    return None


def _run_here(plans: Sequence[TrialPlan], run: Run) -> list[str]:
    failures = []
    for done, plan in enumerate(plans, start=1):
        reason = _attempt(run, plan)
        if reason is None:
            log.info("[%d/%d] %s", done, len(plans), plan.name)
        elif processes.count() > 1:  # going on alone would mix up what the processes send each other
            raise TrialError(f"{plan.name}: {reason}")
        else:
            failures.append(f"  {plan.name}: {reason}")
    return failures


def _run_in_processes(plans: Sequence[TrialPlan], run: Run, at_once: int, workers: int) -> list[str]:
    context = _fork_server()
    with ProcessPoolExecutor(
        at_once, mp_context=context, initializer=_start_worker, initargs=(workers,)
    ) as pool:
        futures = {pool.submit(_attempt, run, plan): plan for plan in plans}
        try:
            return _collect(futures)
        except BaseException:  # Ctrl-C: start no more trials
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fork_server() -> ForkServerContext:
    """Start the process that workers are forked from, if it is not running yet, without waiting for its imports.

    It imports torch and the rest once. Forking this process instead could copy a half-held lock, and spawning would
    import everything again in each worker.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdcache.experiment"])
    forkserver.ensure_running()
    return context


def _collect(futures: dict[Future[str | None], TrialPlan]) -> list[str]:
    failures, done = [], 0
    for future in as_completed(futures):
        plan = futures[future]
        try:
            reason = future.result()
        except BrokenProcessPool:
            reason = DIED
        if reason is None:
            done += 1
            log.info("[%d/%d] %s", done, len(futures), plan.name)
        else:
            failures.append(f"  {plan.name}: {reason}")
    return failures


def _start_worker(workers: int) -> None:
    # Ctrl-C reaches the workers too, and ends them at once: they would go on with the next trial otherwise.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_stage, daemon=True).start()
    share_cores(workers)


def _end_with_stage() -> None:
    """End this worker when the stage that holds the lock is gone: nobody writes into its folders without the lock."""
    stage = multiprocessing.parent_process()
    if stage is not None:
        stage.join()
        os._exit(1)
