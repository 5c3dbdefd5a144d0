"""A trial's identity, its result on disk, and what is still missing.

A trial is a configuration (task x student x regularizer) with a seed. Its folder `seed-<s>/` holds `logits/`, its
own logit cache (validation, and train for the baseline, which is Self-KD's teacher), and `result.json`, written last:
a folder without it is an interrupted trial and is done again. The result carries the trial's *identity*; a trial is
run exactly when its identity is new. Nothing here imports torch, so that a stage with nothing to do ends at once.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from kdcache import checkpoints, fingerprint
from kdcache.errors import KdcacheError, TrialError
from kdcache.files import read_json, write_json
from kdcache.params import Model, Regularizer, Student
from kdcache.tasks import TaskCard

log = logging.getLogger(__name__)

RESULT = "result.json"
TEACHER = "teacher.json"
INAPPLICABLE = "not-applicable.json"
SEED_FOLDER = re.compile(r"seed-(\d+)")

# What a trial's numbers depend on: the code that encodes, builds, trains and scores.
TRAINING_CODE = (
    "kdcache.columns",
    "kdcache.encoding",
    "kdcache.models",
    "kdcache.regularizers",
    "kdcache.scoring",
    "kdcache.training",
)

# Parameters that name things or choose where they run, without changing a trial's numbers: what they stand for
# (the checkpoint's weights, the teacher's logits) is in the identity by its fingerprint.
NAMES_ONLY = {"checkpoint", "revision", "tasks", "teacher"}


class TrialResult(BaseModel):
    """`result.json`: what was run, what came out and what it cost. Metrics are fractions, 0..1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str
    task: str
    student: str
    family: str
    init: str
    checkpoint: str
    layers: int | None
    teacher: str | None
    regularizer: str
    seed: int
    params: dict[str, Any]
    metrics: dict[str, float]
    steps: int
    losses: list[float]
    seconds: float
    peak_memory_mb: float
    device: str
    versions: dict[str, str]


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
    soft_labels: Path | None  # a logit cache whose train split is learned from
    keep_train_logits: bool

    @property
    def name(self) -> str:
        return f"{self.task} / {self.student} / {self.regularizer} / seed {self.seed}"


def training_identity(
    card: TaskCard, model: Model, method: Regularizer, seed: int, soft_labels: str | None = None
) -> str:
    """Hash of all that decides a trained model's numbers: data, start, preprocessing, method, seed and code.

    Args:
        soft_labels: the identity of the logit cache the method learns from, for distillers.
    """
    code = [*TRAINING_CODE, *([method.function.split(":")[0]] if method.function else [])]
    return fingerprint.of_json(
        {
            "data": card.fingerprint,
            "weights": checkpoints.weights_fingerprint(model),
            "preprocessing": checkpoints.preprocessing_fingerprint(model, card.max_length),
            "recipe": model.model_dump(exclude=NAMES_ONLY | {"seed"}),
            "method": method.model_dump(),
            "soft_labels": soft_labels,
            "seed": seed,
            "code": fingerprint.of_code(*code),
        }
    )


def teacher_identity(folder: Path) -> str | None:
    """The identity of the finished teacher in a folder; None when there is none."""
    path = folder / TEACHER
    return str(read_json(path).get("identity")) if path.exists() else None


def mark_inapplicable(folder: Path, reason: str) -> None:
    """Leave a note in an output folder that the study excludes (`tasks:` of a model), and nothing else."""
    if folder.exists():
        shutil.rmtree(folder)
    log.info("%s: not applicable: %s", folder, reason)
    write_json(folder / INAPPLICABLE, {"not_applicable": reason})


def trial_folder(root: Path, seed: int) -> Path:
    """The folder of one seed inside a configuration's folder."""
    return root / f"seed-{seed}"


def read_result(folder: Path) -> TrialResult | None:
    """The result in a trial's folder; None when the trial is not finished.

    Raises:
        TrialError: result.json is there but is no result of this version.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return TrialResult.model_validate(read_json(path))
    except KdcacheError as error:
        raise TrialError(f"{error} (a trial's result; delete {folder} to run the trial again)") from None
    except ValidationError as error:
        wrong = ", ".join(sorted({".".join(map(str, item["loc"])) or "(all)" for item in error.errors()}))
        raise TrialError(
            f"{path}: not a trial's result, see {wrong}; delete {folder} to run it again"
        ) from None


def write_result(folder: Path, result: TrialResult) -> None:
    """Write result.json, atomically; from here on the trial is finished."""
    write_json(folder / RESULT, result.model_dump())


def reconcile(root: Path, wanted: Mapping[int, str]) -> list[int]:
    """Delete what is no longer asked for from a configuration's folder, and return the seeds that are missing.

    A finished trial stays exactly when its seed is wanted and its identity is the wanted one. Everything else
    (other seeds, other identities, interrupted or unreadable trials) is deleted, so no stale result survives.

    Args:
        wanted: identity of each wanted seed.
    """
    root.mkdir(parents=True, exist_ok=True)
    kept = set()
    for folder in sorted(root.iterdir()):
        match = SEED_FOLDER.fullmatch(folder.name)
        seed = int(match.group(1)) if match else None
        reason = _why_stale(folder, wanted.get(seed) if seed is not None else None)
        if reason is None and seed is not None:
            kept.add(seed)
        else:
            log.info("%s: deleted (%s)", folder, reason)
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    if kept:
        log.info("%s: kept %d finished trials (seeds %s)", root, len(kept), ", ".join(map(str, sorted(kept))))
    return [seed for seed in wanted if seed not in kept]


def _why_stale(folder: Path, wanted: str | None) -> str | None:
    """Why a folder must go, or None when it holds the finished trial that is wanted."""
    if wanted is None:
        return "no longer asked for"
    try:
        result = read_result(folder)
    except TrialError as error:
        return str(error)
    if result is None:
        return "interrupted before it was finished"
    return (
        None if result.identity == wanted else "its identity changed: other data, parameters, weights or code"
    )


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock on an output folder; it lies beside the folder and is freed when the process ends, however.

    Raises:
        TrialError: another process holds it, e.g. a stage that outlived a killed `dvc repro`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise TrialError(
            f"{folder}: another process is writing here (it holds {lock.lock_file}), perhaps a stage that outlived a "
            "killed `dvc repro`; wait for it or stop it, then run again"
        ) from None
