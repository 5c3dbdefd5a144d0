"""A process that runs stages as `dvc repro --single-item` does, and how to end it with all that it started.

Jobs are forked from a server that has imported DVC once: DVC's part of a stage takes 0.2 s of CPU instead of 0.6 s.
Each is the first process of a session of its own: Ctrl-C reaches it from the driver alone, once, at a good moment.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from kdcache.errors import KdcacheError
from kdcache.system.preloading import uncollected

PRELOAD = [
    "dvc.cli",
    "dvc.cli.parser",
    "dvc.commands.repro",
    "dvc.repo.reproduce",
    "dvc.repo.index",
    "dvc.stage.loader",
]


class Job:
    """A running stage, or several that have nothing to do and are run together.

    Args:
        allow_missing: as for `dvc repro`.
        log: the file that gets all that DVC and the stages print.
        environment: variables for DVC and the stages, besides this process's.
    """

    def __init__(
        self, stages: Sequence[str], allow_missing: bool, log: Path, environment: Mapping[str, str]
    ) -> None:
        self.stages, self.log, self.started = list(stages), log, time.monotonic()
        log.unlink(missing_ok=True)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(uncollected(PRELOAD))
        self._process = context.Process(
            target=_run,
            args=(self.stages, allow_missing, log, dict(environment)),
            name=self.name,
        )
        self._process.start()
        self.sentinel = self._process.sentinel  # for multiprocessing.connection.wait
        self._started: set[psutil.Process] = set()  # by the stage, as far as known when it was interrupted

    @property
    def name(self) -> str:
        return self.stages[0] if len(self.stages) == 1 else f"{len(self.stages)} stages with nothing to do"

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def ended(self) -> bool:
        return not self._process.is_alive()

    def ok(self) -> bool:
        """Wait for the end; whether the stages are done, or were up to date."""
        self._process.join()
        return self._process.exitcode == 0

    def interrupt(self) -> None:
        """Have the stage's processes stop by themselves, as Ctrl-C does."""
        self._started |= self._descendants()
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the processes that are left of it."""
        for process in self._started | self._descendants():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._signal(signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def _descendants(self) -> set[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return set(psutil.Process(self._process.pid).children(recursive=True))
        return set()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # there is no session: it has not begun, or all of it has ended
            self._process.kill()


def end_all(jobs: Sequence[Job], give_up: Callable[[], bool]) -> None:
    """Wait for interrupted jobs to end by themselves, until `give_up` says not to; then kill what is left."""
    while not give_up() and not all(job.ended for job in jobs):
        time.sleep(0.05)
    for job in jobs:
        job.kill()


def _run(stages: list[str], allow_missing: bool, log: Path, environment: dict[str, str]) -> None:
    os.setsid()
    _print_to(log)
    os.environ.update(environment)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    if len(stages) == 1:
        from dvc.cli import main

        options = ["--allow-missing"] if allow_missing else []
        sys.exit(main(["--wait-for-lock", "repro", "--single-item", *options, *stages]))
    from kdcache.repro.pipeline import run_together

    try:
        run_together(stages, allow_missing)
    except KdcacheError as error:
        sys.exit(f"error: {error}")


def _print_to(log: Path) -> None:
    """Send all output of this process and its children to a file, and give them no input."""
    nothing, file = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
    )
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)


def _end_with_driver() -> None:
    """Interrupt the stage when the driver is gone without having done so (killed)."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os.killpg(0, signal.SIGINT)
