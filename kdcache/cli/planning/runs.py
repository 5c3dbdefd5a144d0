"""The parts of a plan: sizes of tasks, runs, and jobs, which group runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kdcache.study import Model

# done: the result exists, as the study asks for it. unkept: so too, but the model to keep is missing, so it is trained
# once more. stale: it exists, but with other data, parameters, weights or code, so it runs again. unchecked: it exists,
# but the task is not prepared or the checkpoint not on this machine. missing: it does not exist.
State = Literal["done", "unkept", "stale", "unchecked", "missing"]
STATES: tuple[State, ...] = get_args(State)
Kind = Literal[
    "teacher", "student", "tuned teacher", "tuned student"
]  # "tuned ..." are the runs of tuning, before the study's own


@dataclass(frozen=True)
class Size:
    """A task's numbers: train rows, rows of all evaluated splits together, and outputs K (None if unknown).

    `unlabelled` is the number of rows without labels, None if unknown; it is ignored for a task without such rows.
    """

    train: int
    evaluated: int
    classes: int | None = None
    unlabelled: int | None = None


@dataclass(frozen=True)
class Run:
    """One fine-tuning: its state, its steps, how many rows it then predicts, and how many rows' logits it keeps."""

    state: State
    steps: int | None  # optimizer steps; None when the task's rows are unknown
    predicted: int | None
    kept: int | None
    finished: Mapping[str, Any] | None  # its steps, seconds and device, if it is finished
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
        """The runs that are still to do, as far as known."""
        return tuple(run for run in self.runs if run.state in ("missing", "stale", "unkept"))
