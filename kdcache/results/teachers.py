"""metrics/teachers.csv: how good each teacher is, and how soft its labels are, from its cached logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import log_softmax

from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.logits.scan import by_id
from kdcache.results.schema import TeacherRow
from kdcache.results.writing import tabulate
from kdcache.study import Metric, Study
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.scoring import score_outputs

TRAIN, VALIDATION = "train", "validation"


def teachers_table(study: Study, root: Path, trials: pd.DataFrame) -> pd.DataFrame:
    """metrics/teachers.csv: one row per task and teacher, in the order of the study.

    metric: the task's first. train, validation: the teacher's score in points; train uses the labels that the teacher
    was trained on. majority: the score on validation of always answering train's commonest class (a regression: its
    mean). classes: K. entropy (nats, 0 to ln K) and confidence (the largest probability): means over train at
    temperature 1; blank for a regression. student: the best plainly fine-tuned student among those that the teacher can
    teach. student_score: its mean over seeds. gap: `validation` minus `student_score`, in points.

    Args:
        root: the folder that holds `tasks/` and `logits/`.
        trials: the table of `gather.trials_table`.

    Raises:
        CacheError: a cache is missing, damaged, or of other rows than the task's.
        TaskError: a task is not prepared.
    """
    return tabulate(TeacherRow, (_row(study, root, trials, *pair) for pair in study.taught()))


def _row(study: Study, root: Path, trials: pd.DataFrame, task: str, teacher: str) -> TeacherRow:
    prepared, metric = PreparedTask(root / "tasks" / task), study.tasks[task].metrics[0]
    cache = LogitCache(root / "logits" / task / teacher)
    train, validation = (_read(cache, prepared, split) for split in (TRAIN, VALIDATION))
    score = validation.score(metric, prepared.card)
    student, student_score = _best_student(study, trials, task, teacher, metric)
    return TeacherRow(
        task=task,
        teacher=teacher,
        metric=metric,
        classes=prepared.card.classes,
        train=100 * train.score(metric, prepared.card),
        validation=100 * score,
        majority=100 * always_the_same(prepared, metric),
        entropy=train.entropy,
        confidence=train.confidence,
        student=student,
        student_score=None if student_score is None else 100 * student_score,
        gap=None if student_score is None else 100 * (score - student_score),
    )


@dataclass(frozen=True)
class _Split:
    """A teacher's outputs [N] on a split, the labels [N], and its mean entropy and confidence (None: a regression)."""

    outputs: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    entropy: float | None
    confidence: float | None

    def score(self, metric: Metric, card: TaskCard) -> float:
        return score_outputs(self.outputs, self.labels, metric, card.positive_class)


def _read(cache: LogitCache, task: PreparedTask, split: str) -> _Split:
    """Read a split's logits row group by row group; only each row's output is kept, not its logits."""
    rows = task.rows(split, ["row_hash", "label"])
    hashes, done, outputs, entropy, confidence = rows["row_hash"].to_numpy(), 0, [], 0.0, 0.0
    for part in by_id(cache, split):
        expected = np.arange(done, done + len(part.ids))
        if (part.ids != expected).any() or (part.row_hashes != hashes[done : done + len(part.ids)]).any():
            raise CacheError(
                f"{cache.path}: split {split!r} has logits of other rows than {task.folder}; run `dvc repro`"
            )
        done += len(part.ids)
        if task.card.regression:
            outputs.append(part.logits[:, 0].astype(np.float64))
            continue
        logs = log_softmax(part.logits.astype(np.float64), axis=1)
        outputs.append(logs.argmax(axis=1))
        entropy -= float((np.exp(logs) * logs).sum())
        confidence += float(np.exp(logs.max(axis=1)).sum())
    if done != len(hashes) or not done:
        raise CacheError(
            f"{cache.path}: split {split!r} has {done} rows, {task.folder} has {len(hashes)}; run `dvc repro`"
        )
    means = (None, None) if task.card.regression else (entropy / done, confidence / done)
    return _Split(np.concatenate(outputs), rows["label"].to_numpy(), *means)


def always_the_same(task: PreparedTask, metric: Metric) -> float:
    """The score on validation of the same answer for every row: train's commonest class, or its mean."""
    card = task.card
    train, labels = (task.rows(split, ["label"])["label"].to_numpy() for split in (TRAIN, VALIDATION))
    answer = train.mean() if card.regression else np.bincount(train).argmax()
    return score_outputs(np.full(len(labels), answer), labels, metric, card.positive_class)


def _best_student(
    study: Study, trials: pd.DataFrame, task: str, teacher: str, metric: Metric
) -> tuple[str, float | None]:
    """The best plainly fine-tuned student among those that the teacher can teach, and its mean score over seeds."""
    base = trials[(trials["task"] == task) & (trials["regularizer"] == study.comparison.baseline)]
    means = {
        name: float(base[base["student"] == name][metric].mean()) for name in _taught(study, task, teacher)
    }
    if not means:
        return "", None
    best = max(means, key=lambda name: means[name])
    return best, means[best]


def _taught(study: Study, task: str, teacher: str) -> Iterator[str]:
    """The students on a task whose teacher it is, or that learn from it through a method that names it."""
    for name, student in study.students.items():
        named = {one for method in study.methods().values() for one in method.teachers_of(student)}
        if study.applies(student, task) and teacher in named | set(student.teachers):
            yield name
