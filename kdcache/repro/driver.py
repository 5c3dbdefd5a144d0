"""Run the stages that DVC says have changed, several at once, until all have ended or somebody stops it."""

from __future__ import annotations

import hashlib
import re
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from multiprocessing import connection
from types import FrameType

from filelock import FileLock, Timeout

from kdcache.engine import slots
from kdcache.engine.local import modelling_modules
from kdcache.engine.shared_server import SharedServer
from kdcache.errors import KdcacheError
from kdcache.repro import code_lock
from kdcache.repro.job import Job, end_all
from kdcache.repro.pipeline import Project
from kdcache.repro.progress import Display, Trials
from kdcache.repro.schedule import Schedule, State
from kdcache.repro.work import PARAMS, expected_work
from kdcache.system.files import write_json
from kdcache.system.names import SETTLED

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK = 0.3  # seconds between two looks at signals and logs
LONGEST_LOG = 150  # characters; the file systems of Linux and macOS allow 255
PATIENCE = 20.0  # seconds that interrupted stages have to end by themselves


def reproduce(
    targets: Sequence[str] = (),
    jobs: int = 2,
    keep_going: bool = False,
    allow_missing: bool = False,
    beside: Sequence[str] = (),
    server: SharedServer | None = None,
) -> int:
    """Bring the targets up to date as `dvc repro` does, with up to `jobs` stages at once.

    Args:
        targets: as for `dvc repro`; default: dvc.yaml.
        keep_going: when a stage fails, still run those that do not depend on it.
        allow_missing: a stage whose data are not here, but have not changed by dvc.lock, is up to date.
        beside: stages that are no part of the targets. They are brought up to date with what is here at the beginning,
            beside the first stages of the targets. If one of them fails, the others go on.
        server: of worker processes, to be used by several runs; default: one for this run.

    Returns:
        The exit code: 0, 1 when a stage failed, 128 + the signal that stopped it.

    Raises:
        KdcacheError: DVC refuses the pipeline, params.yaml has mistakes, or another such run is under way here.
    """
    project = Project()
    with alone(project):
        if PARAMS.exists() and not PARAMS.with_name(SETTLED).exists():
            write_json(PARAMS.with_name(SETTLED), {})  # DVC wants to find what stages depend on
        refreshed = code_lock.refresh()
        pipeline = project.read(targets)
        schedule = Schedule(pipeline.order, pipeline.upstream, pipeline.changed)
        waiting = schedule.having(State.WAITING)
        work = expected_work(pipeline, waiting)
        display = Display(len(waiting), Trials(work.trials))
        if refreshed:
            display.say(refreshed)
        display.say(
            f"{len(pipeline.order) - len(waiting)} stages are up to date, {len(waiting)} to run or to check"
        )
        if not waiting:  # reading dvc.lock again would take as long as all that DVC did
            return 0
        missing = set(pipeline.order) - pipeline.superseded if allow_missing else set()
        with (
            _signals() as received,
            display,
            project.lock_file_in_order(pipeline.order),
            ExitStack() as held,
        ):
            environment = {}
            if work.models:  # importing torch takes seconds; a stage that finds no server starts its own
                workers = server or held.enter_context(SharedServer())
                environment = workers.start(modelling_modules(work.models))
            run = _Run(project, schedule, display, jobs, keep_going, missing, work.idle, environment)
            run.start_beside(beside)
            run.to_the_end(received)
    if received:
        return 128 + received[0]
    return 1 if schedule.having(State.FAILED) else 0


class _Run:
    """One run: its schedule and its jobs.

    Args:
        may_lack_data: the stages that are run with --allow-missing.
        idle: the stages that are expected to have nothing to do: they are run together, last.
        environment: variables for the stages.
    """

    def __init__(
        self,
        project: Project,
        schedule: Schedule,
        display: Display,
        jobs: int,
        keep_going: bool,
        may_lack_data: Set[str],
        idle: Collection[str],
        environment: Mapping[str, str],
    ) -> None:
        self._project, self._schedule, self._display = project, schedule, display
        self._at_once, self._keep_going, self._may_lack_data = jobs, keep_going, may_lack_data
        self._idle = set(idle)
        self._jobs: list[Job] = []
        self._beside: list[Job] = []  # those of the jobs that the schedule does not have
        self._logs = project.folder / "logs"
        self._logs.mkdir(exist_ok=True)
        slots_folder = project.folder / "slots"
        slots_folder.mkdir(exist_ok=True)
        self._environment = {slots.SLOTS: str(slots_folder), **environment}

    def start_beside(self, stages: Sequence[str]) -> None:
        """Start stages that are not in the schedule."""
        for stage in stages:
            self._beside.append(self._start([stage], allow_missing=False))

    def to_the_end(self, received: list[int]) -> None:
        """Run until no stage is left that may run, or until a signal has been received."""
        try:
            while not received and self._start_ready():
                connection.wait([job.sentinel for job in self._jobs], timeout=LOOK)
                self._collect()
        finally:
            self._stop(received)

    def _start_ready(self) -> bool:
        """Start what may start; whether anything runs."""
        for stages in self._groups() if self._going_on() else []:
            if len(self._jobs) < self._at_once:
                for stage in stages:
                    self._schedule.start(stage)
                self._start(stages, self._may_lack_data >= set(stages))
        return bool(self._jobs)

    def _start(self, stages: Sequence[str], allow_missing: bool) -> Job:
        log = self._logs / log_name(stages[0])
        job = Job(stages, allow_missing, log, self._environment)
        self._jobs.append(job)
        return job

    def _groups(self) -> list[list[str]]:
        """What may be run now in a process each: a stage with work, and last all those without."""
        idle = self._schedule.ready_together(self._idle)
        working = [[stage] for stage in self._schedule.ready() if stage not in self._idle | self._held_back()]
        return [*working, idle] if idle else working

    def _held_back(self) -> set[str]:
        """The last stages while others run beside: these read what the last ones write, and DVC waits for no reader."""
        return self._schedule.last if any(job in self._jobs for job in self._beside) else set()

    def _going_on(self) -> bool:
        return self._keep_going or not self._schedule.having(State.FAILED)

    def _collect(self) -> None:
        for job in [job for job in self._jobs if job.ended]:
            self._jobs.remove(job)
            ok = job.ok()
            if len(job.stages) > 1 and not ok:
                self._one_by_one(job)
                continue
            scheduled = [] if job in self._beside else job.stages
            dropped = [later for stage in scheduled for later in self._schedule.finish(stage, ok)]
            self._display.end(job.name, scheduled, job.log, ok, job.seconds)
            if not ok:
                self._display.fail(job.name, job.log, dropped)
        self._display.show({job.name: job.log for job in self._jobs})

    def _one_by_one(self, job: Job) -> None:
        """One of several stages failed: each is run again by itself, so that the one is known and the others end."""
        self._idle.clear()
        for stage in job.stages:
            self._schedule.wait_again(stage)

    def _stop(self, received: list[int]) -> None:
        """End all remaining jobs, after a signal or an error of this process."""
        if not self._jobs:
            return
        stopped = ", ".join(job.name for job in self._jobs)
        self._display.say(f"stopping {stopped} (finished trials are kept; once more to kill them at once)")
        with self._project.between_writes():
            for job in self._jobs:
                job.interrupt()
        give_up = time.monotonic() + PATIENCE
        end_all(self._jobs, lambda: time.monotonic() > give_up or len(received) > 1)


def log_name(stage: str) -> str:
    """The file name of a stage's log. A stage's name can be longer than a file's name may be."""
    name = re.sub("[/:]", "_", stage)
    if len(name) > LONGEST_LOG:
        name = f"{name[:LONGEST_LOG]}-{hashlib.sha256(stage.encode()).hexdigest()[:8]}"
    return f"{name}.log"


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals to stop that have been received so far; no signal interrupts this process.

    A hang-up that is ignored already, as `nohup` has it, stays ignored.
    """
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heeded = [number for number in STOPPING if not (ignored and number == signal.SIGHUP)]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alone(project: Project) -> Iterator[None]:
    """Nobody else runs or settles the project meanwhile. Who holds this may ask for it again, as `reproduce` does.

    Raises:
        KdcacheError: somebody does so already.
    """
    path = project.folder / "repro.lock"
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(path, is_singleton=True).acquire(timeout=0))
        except Timeout:
            raise KdcacheError(
                f"another `kdcache repro` runs here (it holds {path}); wait for it, or stop it"
            ) from None
        yield
