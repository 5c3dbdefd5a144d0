"""The folders of a project. No other module knows them (dvc.yaml names the same folders)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RESULT = "result.json"  # of a finished trial
TEACHER = "teacher.json"  # of a finished teacher; a copy lies beside its logits
COST = "cost.json"  # of a trial or a teacher: time and memory, which are no part of a result
LOGITS = "logits"  # a trial's own logit cache
LIKELIHOODS = "likelihoods"  # of a language model's trial: those of every evaluated token
MODEL = "model"  # a trial's trained model, if it is kept
ONNX = "model.onnx"  # in the folder of a model that is handed out, on request
STUDENT, CARD = "student.json", "README.md"  # a kept model's record, and its card
INAPPLICABLE = "not-applicable.json"
SEED_FOLDER = re.compile(r"seed-(\d+)")


@dataclass(frozen=True)
class Layout:
    """The folders of a project.

    Args:
        root: the project's own folder; default: the current one.
    """

    root: Path = Path()

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def tuning(self) -> Path:
        """Everything that tuning makes; see `kdcache.engine.tuning.places`."""
        return self.root / "data" / "tuning"

    @property
    def tuning_table(self) -> Path:
        return self.metrics / "tuning.csv"

    def task(self, task: str) -> Path:
        """A prepared task."""
        return self.data / "tasks" / task

    def teacher(self, task: str, teacher: str) -> Path:
        """A fine-tuned teacher, a checkpoint."""
        return self.data / "teachers" / task / teacher

    def caches(self, task: str) -> Path:
        """The logits of all teachers of a task."""
        return self.data / "logits" / task

    def cache(self, task: str, teacher: str) -> Path:
        """The logits of one teacher on a task."""
        return self.caches(task) / teacher

    def configuration(self, task: str, student: str, regularizer: str) -> Path:
        """The trials of one configuration, a folder for each seed."""
        return self.data / "trials" / task / student / regularizer

    def trial(self, task: str, student: str, regularizer: str, seed: int) -> Path:
        """One trial."""
        return trial_folder(self.configuration(task, student, regularizer), seed)


def trial_folder(configuration: Path, seed: int) -> Path:
    """The folder of one seed inside a configuration's folder."""
    return configuration / f"seed-{seed}"


def own_folder() -> Path:
    """The folder `.kdcache` of the project that the current folder is in; outside Git and DVC.

    DVC runs experiments in copies of the project under `.dvc/tmp/`. The copies share the project's own folder.
    """
    working_folder = Path.cwd()
    parts = working_folder.parts
    project = Path(*parts[: parts.index(".dvc")]) if ".dvc" in parts else working_folder
    return project / ".kdcache"
