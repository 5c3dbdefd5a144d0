"""Teachers, caches and identities made by hand, without a study."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcache.checkpoints.find import find_checkpoint
from kdcache.logits import Fingerprints
from kdcache.study import Model, Regularizer, Student, Task, Teacher
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials import cache as caching
from kdcache.trials import teach as teaching
from kdcache.trials.identity import common_parts, identity_of, teacher_caches, training_parts
from kdcache.trials.keeping import missing_trials, why_cache
from kdcache.trials.layout import trial_folder
from kdcache.trials.plan import CachePlan, TeacherPlan, TrialPlan, trained_teacher
from kdcache.trials.store import Store

WORDS = ["cat", "dog", "red", "blue", "sea", "sky", "tree", "bird", "mat", "noon"]


def prepare_words(root: Path) -> Path:
    """Prepare a task in `root/task`: 40 rows of four words, every second one of class `no`."""
    draw = random.Random(0)
    for split in ("train", "validation"):
        rows = [f"{' '.join(draw.sample(WORDS, 4))},{'no' if index % 2 else 'yes'}" for index in range(40)]
        (root / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    files = {split: str(root / f"{split}.csv") for split in ("train", "validation")}
    task = {"source": {"files": files}, "text": ["text"], "metrics": ["accuracy"], "max_length": 16}
    prepare_task(Task.model_validate(task), root / "task", "task")
    return root / "task"


def teach(name: str, task_folder: Path, teacher: Teacher, folder: Path, identity: str) -> dict[str, Any]:
    data = PreparedTask(task_folder).card.fingerprint
    return teaching.teach(TeacherPlan(folder, identity, task_folder.name, task_folder, data, name, teacher))


def cache_plan(
    name: str, task_folder: Path, teacher: Teacher, teacher_folder: Path, folder: Path
) -> CachePlan:
    trained = trained_teacher(teacher, teacher_folder)
    checkpoint = find_checkpoint(trained)
    caches = teacher_caches(PreparedTask(task_folder).card, checkpoint, checkpoint.weights)
    return CachePlan(folder, task_folder.name, task_folder, name, trained, teacher_folder, caches)


def cache_logits(name: str, task_folder: Path, teacher: Teacher, teacher_folder: Path, folder: Path) -> None:
    caching.cache_logits(cache_plan(name, task_folder, teacher, teacher_folder, folder))


def training_identity(card: TaskCard, model: Model, method: Regularizer, seed: int, *soft_labels: str) -> str:
    common = common_parts(card, find_checkpoint(model), model, method.function)
    return identity_of(training_parts(common, method, seed, *soft_labels))


def trial_plan(**values: Any) -> TrialPlan:
    """A plan on the prepared task; by default plain fine-tuning."""
    task = values["task_folder"]
    by_default = {
        "task": task.name,
        "data": PreparedTask(task).card.fingerprint,
        "student": "student",
        "regularizer": "base",
        "method": Regularizer(),
        "seed": 0,
        "soft_labels": (),
        "keep_train_logits": False,
    }
    return TrialPlan(**{**by_default, **values})


def missing_seeds(
    configuration: Path,
    identities: Mapping[int, str],
    splits: Sequence[str] = ("validation",),
    views: bool = False,
    store: Store | None = None,
) -> list[int]:
    """The seeds that a configuration's folder lacks, if trials of these identities are planned."""
    nobody = Student(checkpoint="none", learning_rate=1.0, epochs=1, batch_size=1)
    plans = [
        TrialPlan(
            trial_folder(configuration, seed), identity, "task", Path("task"), "data", "student", nobody, "base",
            Regularizer(), seed, (), "train" in splits, tuple(split for split in splits if split != "train"), views,
        )
        for seed, identity in identities.items()
    ]  # fmt: skip
    return [plan.seed for plan in missing_trials(configuration, plans, store)]


def why_no_cache(folder: Path, caches: dict[str, Fingerprints], teacher_folder: Path) -> str | None:
    nobody = Teacher(checkpoint="none", learning_rate=1.0, epochs=1, batch_size=1)
    return why_cache(CachePlan(folder, "task", Path("task"), "teacher", nobody, teacher_folder, caches))
