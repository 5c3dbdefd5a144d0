"""Hand plans to workers, retry the trial of a dead worker, and gather failures: the same for every engine."""

from __future__ import annotations

import logging
import shutil
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from kdcache.errors import KdcacheError, TrialError
from kdcache.system import processes
from kdcache.trials.layout import RESULT

if TYPE_CHECKING:
    from kdcache.trials.plan import TrialPlan

log = logging.getLogger(__name__)

Run: TypeAlias = "Callable[[TrialPlan], None]"


@dataclass(frozen=True)
class Lost:
    """The outcome of a trial whose worker died; `how` says what is known about its end."""

    how: str


Outcome = str | Lost | None  # why the trial failed, or None if it did not


class Pool(ABC):
    """Workers, each of which runs one plan at a time. Leaving the `with` block ends them, even during a trial."""

    @abstractmethod
    def __str__(self) -> str:
        """How the pool runs plans, for the log."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many more plans can be started now."""

    @abstractmethod
    def start(self, plan: TrialPlan) -> None:
        """Start a plan. Call it only if there is room."""

    @abstractmethod
    def next(self) -> tuple[TrialPlan, Outcome]:
        """Wait until one of the started plans has ended, and return it with its outcome."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_in(pool: Pool, plans: Sequence[TrialPlan]) -> list[str]:
    """Run every plan. Return a line for each that failed. A plan whose worker died is tried once more."""
    waiting, running, lost = deque(plans), 0, set[Path]()
    failures: dict[Path, str] = {}
    while waiting or running:
        while waiting and pool.room:
            pool.start(waiting.popleft())
            running += 1
        plan, outcome = pool.next()
        running -= 1
        if isinstance(outcome, Lost) and plan.folder not in lost:
            log.warning("%s: its worker died (%s); the trial is tried once more", plan.name, outcome.how)
            lost.add(plan.folder)
            _clear_interrupted(plan.folder)
            waiting.append(plan)
        elif outcome is None:
            done = len(plans) - len(waiting) - running - len(failures)
            log.info("[%d/%d] %s", done, len(plans), plan.name)
        else:
            failures[plan.folder] = _died_twice(outcome) if isinstance(outcome, Lost) else outcome
    return [f"  {plan.name}: {failures[plan.folder]}" for plan in plans if plan.folder in failures]


def _clear_interrupted(folder: Path) -> None:
    """Remove an interrupted trial. It starts again from the beginning. A finished trial stays: only its model was being
    made."""
    if not (folder / RESULT).is_file():
        shutil.rmtree(folder, ignore_errors=True)


def run_here(plans: Sequence[TrialPlan], run: Run) -> list[str]:
    """Run every plan in this process. Return a line for each that failed."""
    failures = []
    for done, plan in enumerate(plans, start=1):
        reason = attempt(run, plan)
        if reason is None:
            log.info("[%d/%d] %s", done, len(plans), plan.name)
        elif processes.count() > 1:  # if one process went on alone, the processes' messages would be mixed up
            raise TrialError(f"{plan.name}: {reason}")
        else:
            failures.append(f"  {plan.name}: {reason}")
    return failures


def attempt(run: Run, plan: TrialPlan) -> str | None:
    """Run one plan. Return None, or the reason of its failure as a text: not every exception can be pickled."""
    try:
        run(plan)
    except KdcacheError as error:
        return str(error)
    except Exception:
        return f"an unexpected error\n{traceback.format_exc()}"
    return None


def _died_twice(lost: Lost) -> str:
    return (
        f"its worker process died, twice ({lost.how}); when memory ran out, run fewer at once, then run again"
    )
