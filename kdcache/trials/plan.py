"""A trial to be run: all that a worker needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdcache.study import Regularizer, Student


@dataclass(frozen=True)
class TrialPlan:
    """Everything a worker needs to run one trial; small, and safe to send to another process."""

    folder: Path
    identity: str
    task: str
    task_folder: Path
    student: str
    model: Student
    regularizer: str
    method: Regularizer
    seed: int
    soft_labels: tuple[Path, ...]  # logit caches that are learned from, their mean when several
    keep_train_logits: bool
    evaluated: tuple[str, ...] = ("validation",)  # the splits to score, see TaskCard
    keep_views: bool = False  # beside the train logits, those of every augmented view

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose logits the trial keeps."""
        return ("train", *self.evaluated) if self.keep_train_logits else self.evaluated

    @property
    def name(self) -> str:
        return f"{self.task} / {self.student} / {self.regularizer} / seed {self.seed}"
