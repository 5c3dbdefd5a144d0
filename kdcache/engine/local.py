"""Worker processes on this machine. Each runs one plan after another, and is replaced if it dies.

They are forked from a server that has imported torch and the other modules once. Forking this process instead could
copy a lock that a thread holds, and spawning would import everything again in each worker. The server never touches a
GPU, so each worker can be given its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import TYPE_CHECKING

from kdcache.engine import slots
from kdcache.engine.pool import Lost, Outcome, Pool, Run, attempt
from kdcache.engine.resources import cores, settings, take_over, threads_per_trial, use_threads
from kdcache.errors import KdcacheError, TrialError

if TYPE_CHECKING:
    from kdcache.trials.plan import TrialPlan

VISIBLE = "CUDA_VISIBLE_DEVICES"
PATIENCE = 10  # seconds in which a worker has to end by itself


@dataclass(frozen=True)
class _Worker:
    place: int
    process: ForkServerProcess
    pipe: Connection


class Workers(Pool):
    """Worker processes, spread over the GPUs. Each keeps what it has loaded for its next plan.

    Args:
        workers: trials at once. The cores are divided among them. Default: one per GPU, or one per core without a GPU.
        plans: the number of plans to run. No more processes than that are started.
        modules: modules that the workers need in addition to `kdcache.trials.run`. The server imports them once.
    """

    def __init__(self, run: Run, workers: int | None, plans: int, modules: Sequence[str] = ()) -> None:
        _server(modules)
        self._gpus = visible_gpus()
        workers = workers or default_workers(self._gpus)
        self._run, self._at_once = run, workers
        self._threads = threads_per_trial(workers)
        self._places = list(range(min(workers, plans)))  # places without a process
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, TrialPlan]] = {}

    def __str__(self) -> str:
        return f"{self.room} at once, CPU threads each: {self._threads}, GPUs: {len(self._gpus)}"

    @property
    def room(self) -> int:
        return len(self._places) + len(self._idle)

    def start(self, plan: TrialPlan) -> None:
        worker = self._idle.pop() if self._idle else self._launch()
        if not _sent(worker, plan):  # the worker died since its last plan
            self._bury(worker)
            worker = self._launch()
            _sent(worker, plan)  # if the new worker is dead too, `next` will find out
        self._busy[worker.pipe] = worker, plan

    def next(self) -> tuple[TrialPlan, Outcome]:
        while self._idle:  # no plan is left for these workers, and other stages may wait for their places
            self._dismiss(self._idle.pop())
        ready = connection.wait(list(self._busy))[0]
        assert isinstance(ready, Connection)
        worker, plan = self._busy.pop(ready)
        try:
            outcome: Outcome = ready.recv()
        except (EOFError, OSError):  # the other end is closed
            return plan, Lost(self._bury(worker))
        self._idle.append(worker)
        return plan, outcome

    def close(self) -> None:
        for worker, _ in self._busy.values():
            worker.process.terminate()
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            worker.pipe.close()  # close all pipes first, so that the workers end at the same time
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            self._bury(worker)

    def _launch(self) -> _Worker:
        place = self._places.pop(0)
        ours, theirs = multiprocessing.Pipe()
        arguments = (theirs, self._run, settings(), self._threads, self._gpus, place, self._at_once)
        process = _server().Process(target=_work, args=arguments, name=f"trials-{place}")
        process.start()
        theirs.close()
        return _Worker(place, process, ours)

    def _dismiss(self, worker: _Worker) -> None:
        """End an idle worker."""
        worker.pipe.close()  # a worker ends when its pipe is closed
        self._bury(worker)

    def _bury(self, worker: _Worker) -> str:
        """Make sure that a worker has ended, free its place, and say how it ended."""
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()
        self._places.append(worker.place)
        code = worker.process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def default_workers(gpus: Sequence[str] | None = None) -> int:
    """One per GPU, or one per CPU core if there is no GPU."""
    return len(visible_gpus() if gpus is None else gpus) or cores()


def visible_gpus() -> list[str]:
    """The GPUs that torch sees, by their names in CUDA_VISIBLE_DEVICES.

    A worker is asked, which has imported torch. So this process need not import it.

    Raises:
        TrialError: no worker can be started.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = _server().Process(target=_tell_gpus, args=(theirs,))
    process.start()
    theirs.close()
    try:
        count = int(ours.recv())
    except EOFError:
        raise TrialError("a worker process cannot be started; what it printed above says why") from None
    finally:
        process.join()
    listed = os.environ.get(VISIBLE)
    return (listed.split(",") if listed else [str(number) for number in range(count)])[:count]


def modelling_modules(plans: Sequence[TrialPlan]) -> list[str]:
    """The modules of transformers with the plans' architectures. Importing one takes over a second."""
    from kdcache.checkpoints.find import find_checkpoint

    families = set()
    for model in {plan.model for plan in plans}:
        with suppress(KdcacheError):  # if a checkpoint cannot be read, its trial reports it
            families.add(find_checkpoint(model).family.replace("-", "_"))
    return [f"transformers.models.{name}.modeling_{name}" for name in sorted(families)]


def _server(modules: Sequence[str] = ()) -> ForkServerContext:
    """The server process that workers are forked from. It is started if necessary, without waiting for its imports.

    The server ignores a module that does not exist. The worker that needs it reports it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdcache.trials.run", *modules])
    forkserver.ensure_running()
    return context


def _sent(worker: _Worker, plan: TrialPlan) -> bool:
    try:
        worker.pipe.send(plan)
    except OSError:
        return False
    return True


# ---- in the workers ----


def _tell_gpus(pipe: Connection) -> None:
    import torch

    pipe.send(torch.cuda.device_count())


def _work(
    pipe: Connection,
    run: Run,
    environment: Mapping[str, str],
    threads: int,
    gpus: Sequence[str],
    place: int,
    at_once: int,
) -> None:
    """Run the plans that come through the pipe; `place` is this worker's number among the stage's `at_once` workers."""
    # Ctrl-C reaches the workers too and ends them at once; otherwise they would go on with the next trial.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_stage, daemon=True).start()
    take_over(environment)
    use_threads(threads)
    with slots.hold_one(at_once) as shared:  # a place shared with other stages, if several run
        if len(gpus) > 1:
            os.environ[VISIBLE] = gpus[(place if shared is None else shared) % len(gpus)]
        while True:
            try:
                plan = pipe.recv()
            except EOFError:  # there are no more plans
                return
            pipe.send(attempt(run, plan))


def _end_with_stage() -> None:
    """End this worker when its stage ends: then the stage's lock is gone, and nobody may write into its folders."""
    stage = multiprocessing.parent_process()
    if stage is not None:
        stage.join()
        os._exit(1)
