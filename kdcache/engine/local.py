"""Worker processes on this machine. Each runs one plan after another, and is replaced if it dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from kdcache.engine import forking, slots
from kdcache.engine.forking import Started
from kdcache.engine.pool import Lost, Outcome, Pool, Run, attempt
from kdcache.engine.resources import cores, settings, take_over, threads_per_trial, use_threads
from kdcache.errors import KdcacheError, TrialError

if TYPE_CHECKING:
    from kdcache.study import Model
    from kdcache.trials.plan import TrialPlan

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class _Worker:
    place: int
    process: Started


class Workers(Pool):
    """Worker processes, spread over the GPUs. Each keeps what it has loaded for its next plan.

    Args:
        workers: trials at once. The cores are divided among them. Default: one per GPU, or one per core without a GPU.
        plans: the number of plans to run. No more processes than that are started.
        modules: modules that the workers need besides those that every trial needs (`forking.PRELOAD`).
    """

    def __init__(self, run: Run, workers: int | None, plans: int, modules: Sequence[str] = ()) -> None:
        forking.prepare(modules)
        self._modules = modules
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
        if not worker.process.send(plan):  # the worker died since its last plan
            self._bury(worker)
            worker = self._launch()
            worker.process.send(plan)  # if the new worker is dead too, `next` will find out
        self._busy[worker.process.pipe] = worker, plan

    def next(self) -> tuple[TrialPlan, Outcome]:
        while self._idle:  # no plan is left for these workers, and other stages may wait for their places
            self._bury(self._idle.pop())
        ready = connection.wait(list(self._busy))[0]
        assert isinstance(ready, Connection)
        worker, plan = self._busy.pop(ready)
        try:
            outcome: Outcome = worker.process.receive()
        except EOFError:
            return plan, Lost(self._bury(worker))
        self._idle.append(worker)
        return plan, outcome

    def close(self) -> None:
        for worker, _ in self._busy.values():
            worker.process.terminate()
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            self._bury(worker)

    def _launch(self) -> _Worker:
        place = self._places.pop(0)
        arguments = (self._run, settings(), self._threads, self._gpus, place, self._at_once)
        return _Worker(place, forking.start(_work, arguments, self._modules))

    def _bury(self, worker: _Worker) -> str:
        """Make sure that a worker has ended, free its place, and say how it ended."""
        how = worker.process.end()
        self._places.append(worker.place)
        return how


def default_workers(gpus: Sequence[str] | None = None) -> int:
    """One per GPU, or one per CPU core if there is no GPU."""
    return len(visible_gpus() if gpus is None else gpus) or cores()


def visible_gpus() -> list[str]:
    """The GPUs that torch sees, by their names in CUDA_VISIBLE_DEVICES.

    A worker is asked, which has imported torch. So this process need not import it.

    Raises:
        TrialError: no worker can be started.
    """
    asked = forking.start(_tell_gpus, ())
    try:
        count = int(asked.receive())
    except EOFError:
        raise TrialError("a worker process cannot be started; what it printed above says why") from None
    finally:
        asked.end()
    listed = os.environ.get(VISIBLE)
    return (listed.split(",") if listed else [str(number) for number in range(count)])[:count]


def modelling_modules(models: Iterable[Model]) -> list[str]:
    """The modules of transformers with the models' architectures. Importing one takes over a second.

    Only models that are on this machine count; nothing is downloaded.
    """
    from kdcache.checkpoints.find import find_local

    families = set()
    for model in models:
        with suppress(KdcacheError):  # if a checkpoint cannot be read, its trial reports it
            if (checkpoint := find_local(model)) is not None:
                families.add(checkpoint.family.replace("-", "_"))
    return [f"transformers.models.{name}.modeling_{name}" for name in sorted(families)]


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
    forking.end_with(pipe)
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
