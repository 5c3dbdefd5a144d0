"""What a plan is made of: sizes of tasks, runs, and the jobs that they are counted by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kdcache.study import Model

# done: there, and what the study asks for. unkept: the same, but its model, which is to be kept, is not there: it is
# trained once more. stale: there, but of other data, parameters, weights or code, so it runs again.
# unchecked: there, but the task is not prepared or the checkpoint not on this machine. missing: not there.
State = Literal["done", "unkept", "stale", "unchecked", "missing"]
STATES: tuple[State, ...] = get_args(State)
Kind = Literal[
    "teacher", "student", "tuned teacher", "tuned student"
]  # tuned: in tuning, before the study's own


@dataclass(frozen=True)
class Size:
    """Rows of a task: of train, and of the splits that models are scored on together; K outputs, None if unknown.

    `unlabelled` is how many rows have no labels, None if unknown. It is not read for a task without such rows.
    """

    train: int
    evaluated: int
    classes: int | None = None
    unlabelled: int | None = None


@dataclass(frozen=True)
class Run:
    """One fine-tuning: its state, its steps, how many rows it then predicts, and of how many it keeps the logits."""

    state: State
    steps: int | None  # optimizer steps; None when the task's rows are unknown
    predicted: int | None
    kept: int | None
    finished: Mapping[str, Any] | None  # its steps, seconds and device, when it is there
    logits: Path


@dataclass(frozen=True)
class Job:
    """All runs of one model on one task: a teacher and its logits, or a student with every method and seed."""

    kind: Kind
    task: str
    model: str
    params: Model
    runs: tuple[Run, ...]

    @property
    def left(self) -> tuple[Run, ...]:
        """The runs that are still to do, as far as is known."""
        return tuple(run for run in self.runs if run.state in ("missing", "stale", "unkept"))
