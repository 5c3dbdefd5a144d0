"""Where the pipeline keeps things: the one place that knows the folders under data/ (dvc.yaml names the same)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kdcache.study import UNLABELLED, Regularizer, Task

RESULT = "result.json"
LOGITS = "logits"  # a trial's own logit cache

# A folder of logits is a cache itself (PLAIN) and may hold further ones: of the train rows in each augmented view; of
# the rows without labels (in each view, if any), apart so that what does not use them does not depend on them.
PLAIN, VIEWS = ".", "views"
BESIDE = (VIEWS, UNLABELLED)
TEACHER = "teacher.json"
INAPPLICABLE = "not-applicable.json"
SEED_FOLDER = re.compile(r"seed-(\d+)")


def learned_from(folders: Sequence[Path], method: Regularizer) -> list[Path]:
    """The logit caches whose identities are in a trial's: the folders', and of unlabelled rows if it uses them."""
    beside = [folder / UNLABELLED for folder in folders] if method.unlabelled == "use" else []
    return [*folders, *beside]


def caches_beside(task: Task) -> list[str]:
    """Which of BESIDE a teacher's folder of logits has, by what params.yaml says of the task."""
    return [*[VIEWS] * (task.augment is not None), *[UNLABELLED] * task.has_unlabelled]


def trial_folder(root: Path, seed: int) -> Path:
    """The folder of one seed inside a configuration's folder."""
    return root / f"seed-{seed}"


DATA = Path("data")
METRICS = Path("metrics")
REPORT = Path("report")
TRIALS = DATA / "trials"


def task_folder(task: str) -> Path:
    return DATA / "tasks" / task


def teacher_folder(task: str, teacher: str) -> Path:
    return DATA / "teachers" / task / teacher


def caches_folder(task: str) -> Path:
    return DATA / "logits" / task


def cache_folder(task: str, teacher: str) -> Path:
    return caches_folder(task) / teacher


def configuration_folder(task: str, student: str, regularizer: str) -> Path:
    return TRIALS / task / student / regularizer
