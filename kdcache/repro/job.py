"""A process that runs one stage, as `dvc repro --single-item` does, and how to end it with all that it started.

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

PRELOAD = [
    "dvc.cli",
    "dvc.cli.parser",
    "dvc.commands.repro",
    "dvc.repo.reproduce",
    "dvc.repo.index",
    "dvc.stage.loader",
]


class Job:
    """A running stage.

    Args:
        options: for `dvc repro`.
        log: the file that gets all that DVC and the stage print.
        environment: variables for DVC and the stage, besides this process's.
    """

    def __init__(self, stage: str, options: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.stage, self.log, self.started = stage, log, time.monotonic()
        log.unlink(missing_ok=True)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._process = context.Process(
            target=_run,
            args=(["repro", "--single-item", *options, stage], log, dict(environment)),
            name=stage,
        )
        self._process.start()
        self.sentinel = self._process.sentinel  # for multiprocessing.connection.wait
        self._started: set[psutil.Process] = set()  # by the stage, as far as known when it was interrupted

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def ended(self) -> bool:
        return not self._process.is_alive()

    def ok(self) -> bool:
        """Wait for the end; whether the stage is done, or was up to date."""
        self._process.join()
        return self._process.exitcode == 0

    def interrupt(self) -> None:
        """Have the stage's processes stop by themselves, as Ctrl-C does."""
        self._started |= self._descendants()
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End what is left of it."""
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


def _run(command: list[str], log: Path, environment: dict[str, str]) -> None:
    os.setsid()
    _print_to(log)
    os.environ.update(environment)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    from dvc.cli import main

    sys.exit(main(["--wait-for-lock", *command]))


def _print_to(log: Path) -> None:
    """All that this process and those it starts print goes to a file; nothing can be read."""
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
