"""The parts of a plan: sizes of tasks, runs, and jobs, which group runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kdcache.study import Model

ROW_BYTES = 16  # id and row hash of a cached row
LOGIT_BYTES = 4  # float32

# done: the result exists, as the study asks for it. unkept: the same, but the model to keep is missing, so it is
# trained once more. stale: it exists, but with other data, parameters, weights or code, so it runs again. unchecked: it
# exists, but the task is not prepared or the checkpoint is not on this machine. missing: it does not exist.
State = Literal["done", "unkept", "stale", "unchecked", "missing"]
STATES: tuple[State, ...] = get_args(State)
Kind = Literal[
    "teacher", "student", "tuned teacher", "tuned student"
]  # "tuned ..." are the runs of tuning, before the study's own


@dataclass(frozen=True)
class Size:
    """A task's numbers: train rows, rows of all evaluated splits together, and outputs K (None if unknown).

    `unlabelled` is the number of rows without labels, None if unknown. It is ignored for a task without such rows.
    """

    train: int
    evaluated: int
    classes: int | None = None
    unlabelled: int | None = None

    def cache_bytes(self, rows: int) -> int | None:
        """An upper bound for the bytes of a cache of some rows before Parquet compresses them; None if K is unknown."""
        return None if self.classes is None else rows * (ROW_BYTES + LOGIT_BYTES * self.classes)

    def score_bytes(self, rows: int) -> int | None:
        """The bytes of the logits that a trial keeps of some evaluated rows."""
        return self.cache_bytes(rows)

    def trial_bytes(self, train: int, evaluated: int) -> int | None:
        """The bytes that a trial keeps, with the logits of some train rows, or of none."""
        parts = (self.cache_bytes(train) if train else 0), self.score_bytes(evaluated)
        return None if None in parts else sum(filter(None, parts))


@dataclass(frozen=True)
class Run:
    """One fine-tuning: its state, its steps, how many rows it then predicts, and how many bytes of them it keeps.

    A row is what the model takes. For documents that is a packed sequence.
    """

    state: State
    steps: int | None  # optimizer steps; None if the task's rows are unknown
    predicted: int | None
    kept_bytes: int | None
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
    size: Size | None = None  # the task's size, in the rows that this model takes

    @property
    def remaining(self) -> tuple[Run, ...]:
        """The runs that are still to do, as far as is known."""
        return tuple(run for run in self.runs if run.state in ("missing", "stale", "unkept"))
