"""A trial's identity, its result on disk, and what is still missing.

A trial is a configuration (task x student x regularizer) with a seed. Its folder `seed-<s>/` holds `logits/`, its
own logit cache (the evaluated splits, and train for the baseline, which is Self-KD's teacher), and `result.json`,
written last: a folder without it is an interrupted trial and is done again. The result carries the trial's
*identity*; a trial is run exactly when its identity is new. Nothing here imports torch, so that a stage with nothing
to do ends at once.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from kdcache import checkpoints, fingerprint, processes
from kdcache.errors import CacheError, KdcacheError, TrialError
from kdcache.files import read_json, remove, write_json
from kdcache.logits import Fingerprints, LogitCache
from kdcache.params import UNLABELLED, Model, Regularizer, Student, Task, Teacher
from kdcache.tasks import TaskCard

log = logging.getLogger(__name__)

RESULT = "result.json"
LOGITS = "logits"  # a trial's own logit cache
# A folder of logits is a cache itself (PLAIN) and may hold further ones: of the train rows in each augmented view; of
# the rows without labels (in each view, if any), apart so that what does not use them does not depend on them.
PLAIN, VIEWS = ".", "views"
BESIDE = (VIEWS, UNLABELLED)
TEACHER = "teacher.json"
INAPPLICABLE = "not-applicable.json"
CHANGED = "its identity changed: other data, parameters, weights or code"
SEED_FOLDER = re.compile(r"seed-(\d+)")

# What logits depend on: the code that encodes rows, builds models and runs them.
INFERENCE_CODE = (
    "kdcache.augmentation",
    "kdcache.batches",
    "kdcache.columns",
    "kdcache.encoding",
    "kdcache.experiment",
    "kdcache.logits.views",
    "kdcache.models",
    "kdcache.tasks",
    "kdcache.training",
)
# What a trial's numbers depend on. dvc.yaml lists the same files.
TRAINING_CODE = (*INFERENCE_CODE, "kdcache.regularizers", "kdcache.scoring")

# Parameters that name things or choose where they run, without changing a trial's numbers: what they stand for
# (the checkpoint's weights, the teacher's logits) is in the identity by its fingerprint.
NAMES_ONLY = {"checkpoint", "revision", "tasks", "teacher"}


class TrialResult(BaseModel):
    """`result.json`: what was run, what came out and what it cost. Metrics are fractions, 0..1.

    `commit` is what a hub checkpoint's revision stood for, `start` the content that the trial began with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str
    task: str
    student: str
    family: str
    init: str
    checkpoint: str
    commit: str | None = None
    start: str | None = None
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
    precision: str
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


def training_identity(card: TaskCard, model: Model, method: Regularizer, seed: int, *soft_labels: str) -> str:
    """Hash of all that decides a trained model's numbers: data, start, preprocessing, method, seed and code.

    Args:
        soft_labels: for distillers, the identities of the logit caches that the method learns from, in order.
    """
    return identity_from(training_basis(card, model, method.function), method, seed, *soft_labels)


def training_basis(card: TaskCard, model: Model, function: str | None = None) -> dict[str, Any]:
    """What the identities of a model's trainings on a task have in common; hashing weights and code takes a while.

    Args:
        function: a method's own loss, whose code counts too.
    """
    code = [*TRAINING_CODE, *([function.split(":")[0]] if function else [])]
    return {
        "data": card.fingerprint,
        "weights": checkpoints.weights_fingerprint(model),
        "preprocessing": _preprocessing(card, model),
        "recipe": model.model_dump(exclude=NAMES_ONLY | {"seed"}),
        "code": fingerprint.of_code(*code),
    }


def identity_from(basis: Mapping[str, Any], method: Regularizer, seed: int, *soft_labels: str) -> str:
    """The identity of one training, see `training_identity`."""
    parts = {"method": method.model_dump(exclude=NAMES_ONLY), "soft_labels": soft_labels, "seed": seed}
    return fingerprint.of_json({**basis, **parts})


def _preprocessing(card: TaskCard, model: Model) -> str:
    """How a model is given the rows. With `augment` it stands for the views too, so that a distiller's identity, in
    which a cache's fingerprints are, covers the cache of views beside it."""
    plain = checkpoints.preprocessing_fingerprint(model, card.max_length)
    if card.augment is None:
        return plain
    return fingerprint.of_json({"preprocessing": plain, "augment": card.augment.model_dump()})


def learned_from(folders: Sequence[Path], method: Regularizer) -> list[Path]:
    """The logit caches whose identities are in a trial's: the folders', and of unlabelled rows if it uses them."""
    beside = [folder / UNLABELLED for folder in folders] if method.unlabelled == "use" else []
    return [*folders, *beside]


def caches_beside(task: Task) -> list[str]:
    """Which of BESIDE a teacher's folder of logits has, by what params.yaml says of the task."""
    return [*[VIEWS] * (task.augment is not None), *[UNLABELLED] * task.has_unlabelled]


def teacher_caches(card: TaskCard, model: Model, weights: str) -> dict[str, Fingerprints]:
    """The caches that a teacher's folder of logits has, by their place in it, and what each is computed from.

    The arguments are those of `logit_fingerprints`.
    """
    plain = logit_fingerprints(card, model, weights)
    found = {PLAIN: plain}
    if card.augment is not None:
        found[VIEWS] = plain
    if card.unlabelled is not None:
        found[UNLABELLED] = plain.model_copy(update={"data": card.unlabelled.fingerprint})
    return found


def logit_fingerprints(card: TaskCard, model: Model, weights: str) -> Fingerprints:
    """What a logit cache of labelled rows is computed from.

    Args:
        model: the trained model's checkpoint decides the preprocessing.
        weights: stands for the trained weights: their fingerprint, or the identity of the trial that trained them.
    """
    return Fingerprints(
        data=card.fingerprint,
        weights=weights,
        preprocessing=_preprocessing(card, model),
        code=fingerprint.of_code(*INFERENCE_CODE),
    )


def trained_teacher(teacher: Teacher, folder: Path) -> Teacher:
    """The teacher as it is after training: a checkpoint of its own.

    Raises:
        TrialError: the folder holds no finished teacher.
    """
    if not (folder / TEACHER).is_file():
        raise TrialError(
            f"{folder}: no {TEACHER}, so there is no finished teacher; run stage teach (`dvc repro` does)"
        )
    start = {"checkpoint": str(folder), "revision": None, "init": "pretrained", "layers": None}
    return teacher.model_copy(update=start)


def teacher_files(folder: Path) -> str:
    """Fingerprint of a saved teacher's files, teacher.json apart."""
    names = [path.name for path in folder.iterdir() if path.name != TEACHER and not path.name.startswith(".")]
    return fingerprint.of_files(folder, names)


def why_teach(folder: Path, identity: str) -> str | None:
    """Why a teacher has to be trained, or None when the folder holds that very teacher, whole."""
    if not (folder / TEACHER).exists():
        return "there is none yet"
    try:
        saved = read_json(folder / TEACHER)
        if saved["identity"] != identity:
            return CHANGED
        if saved["files"] != teacher_files(folder):
            return "its files are not as they were saved"
    except (KdcacheError, KeyError, TypeError) as error:
        return f"it is damaged: {error}"
    return None


def why_cache(folder: Path, wanted: Mapping[str, Fingerprints], teacher: Path) -> str | None:
    """Why a teacher's logits have to be computed, or None when the folder holds them, whole and checked.

    Args:
        wanted: the caches that it has to hold, see `teacher_caches`.
        teacher: the folder of the finished teacher.
    """
    if not folder.exists():
        return "there are none yet"
    left = [part for part in BESIDE if part not in wanted and (folder / part).exists()]
    if left:
        return f"{', '.join(left)} is no longer asked for"
    try:
        for part, prints in wanted.items():
            LogitCache(folder / part, prints).verify("full")
        if read_json(folder / TEACHER) != read_json(teacher / TEACHER):
            return "the teacher was trained again"
    except KdcacheError as error:
        return str(error)
    return None


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


def reconcile(
    root: Path, wanted: Mapping[int, str], splits: Sequence[str] = ("validation",), views: bool = False
) -> list[int]:
    """Delete what is no longer asked for from a configuration's folder, and return the seeds that are missing.

    A finished trial stays exactly when its seed is wanted, its identity is the wanted one and its logits are whole.
    Everything else (other seeds, other identities, interrupted or damaged trials) is deleted, so no stale result
    survives.

    Args:
        wanted: identity of each wanted seed.
        splits: those whose logits each trial must have.
        views: whether it must have the logits of augmented views too.
    """
    root.mkdir(parents=True, exist_ok=True)
    kept = set()
    for folder in sorted(root.iterdir()):
        match = SEED_FOLDER.fullmatch(folder.name)
        seed = int(match.group(1)) if match else None
        reason = _why_stale(folder, wanted.get(seed) if seed is not None else None, splits, views)
        if reason is None and seed is not None:
            kept.add(seed)
        else:
            log.info("%s: deleted (%s)", folder, reason)
            shutil.rmtree(folder) if folder.is_dir() else remove(folder)
    if kept:
        log.info("%s: kept %d finished trials (seeds %s)", root, len(kept), ", ".join(map(str, sorted(kept))))
    return [seed for seed in wanted if seed not in kept]


def _why_stale(folder: Path, wanted: str | None, splits: Sequence[str], views: bool) -> str | None:
    """Why a folder must go, or None when it holds the finished trial that is wanted."""
    if wanted is None:
        return "no longer asked for"
    try:
        result = read_result(folder)
        if result is None:
            return "interrupted before it was finished"
        if result.identity != wanted:
            return CHANGED
        return _why_no_logits(folder / LOGITS, splits, views)
    except (TrialError, CacheError) as error:
        return str(error)


def _why_no_logits(folder: Path, splits: Sequence[str], views: bool) -> str | None:
    cache = LogitCache(folder)
    cache.verify("full")
    if views:
        LogitCache(folder / VIEWS).verify("full")
    lacking = [split for split in splits if split not in cache.splits]
    return f"has no logits of {', '.join(lacking)}, which Self-KD now asks for" if lacking else None


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock on an output folder; it lies beside the folder and is freed when the process ends, however.

    Of the processes of one `accelerate launch` only the main one, which writes, takes it.

    Raises:
        TrialError: another process holds it, e.g. a stage that outlived a killed `dvc repro`.
    """
    if not processes.is_main():
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrialError(
            f"{folder}: another process is writing here (it holds {lock.lock_file}), perhaps a stage that outlived a "
            "killed `dvc repro`; wait for it or stop it, then run again"
        ) from None
    try:
        yield
    finally:
        lock.release()
