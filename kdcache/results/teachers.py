"""metrics/teachers.csv: how good each teacher is, and how soft its labels are, from its cached logits."""

from __future__ import annotations

import math
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
from kdcache.logits.tokens.cache import TokenCache
from kdcache.results.schema import TeacherRow
from kdcache.results.writing import tabulate
from kdcache.study import Metric, Study
from kdcache.study.metrics import unit_of
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.scoring import score_outputs
from kdcache.trials.scores import bytes_of

TRAIN, VALIDATION = "train", "validation"


def teachers_table(study: Study, root: Path, trials: pd.DataFrame) -> pd.DataFrame:
    """metrics/teachers.csv: one row per task and teacher, in the order of the study.

    train, validation: the teacher's score in `metric` (the task's first), in its unit (points, nats, bits); on train,
    for the labels that it was trained on. majority: the score on validation of always answering train's commonest class
    (for a regression, its mean). classes: K, or the tokens of a language model's vocabulary. entropy (nats, 0 to ln K)
    and confidence (the largest probability): means over train at temperature 1; blank for a regression, confidence also
    for a language model. student: of the students that the teacher can teach, the best without it (plain fine-tuning).
    student_score: its mean over seeds. gap: how much better the teacher is on validation.

    Args:
        root: the folder that holds `tasks/` and `logits/`.
        trials: the table of `gather.trials_table`.

    Raises:
        CacheError: a cache is missing, damaged, or of other rows than the task's.
        TaskError: a task is not prepared.
    """
    return tabulate(TeacherRow, (_row(study, root, trials, *pair) for pair in study.taught()))


def bytes_per_token(study: Study, root: Path) -> dict[tuple[str, str], float]:
    """By task and teacher, the bytes that the shards of a language model's cache have for each token.

    Args:
        root: the folder that holds `logits/`.

    Raises:
        CacheError: a cache is missing or damaged.
    """
    taught = [pair for pair in study.taught() if study.tasks[pair[0]].language_modelling]
    return {pair: TokenCache(root.joinpath("logits", *pair)).info()["bytes_per_token"] for pair in taught}


def _row(study: Study, root: Path, trials: pd.DataFrame, task: str, teacher: str) -> TeacherRow:
    prepared, metric = PreparedTask(root / "tasks" / task), study.tasks[task].metrics[0]
    train, validation, facts = _taught_on(prepared, root / "logits" / task / teacher, metric)
    student, student_score = _best_student(study, trials, task, teacher, metric)
    majority, unit = always_the_same(prepared, metric), unit_of(metric)
    gap = None if student_score is None else unit.worth(validation) - unit.worth(student_score)
    return TeacherRow(
        task=task,
        teacher=teacher,
        metric=metric,
        train=unit.size * train,
        validation=unit.size * validation,
        majority=None if majority is None else unit.size * majority,
        student=student,
        student_score=None if student_score is None else unit.size * student_score,
        gap=gap,
        **facts,
    )


def _taught_on(task: PreparedTask, folder: Path, metric: Metric) -> tuple[float, float, dict[str, Any]]:
    """The scores on train and validation, and classes, entropy and confidence on train."""
    if task.card.language_modelling:
        return _distributions(task, TokenCache(folder), metric)
    cache = LogitCache(folder)
    train, validation = (_read(cache, task, split) for split in (TRAIN, VALIDATION))
    facts = {"classes": task.card.classes, "entropy": train.entropy, "confidence": train.confidence}
    return train.score(metric, task.card), validation.score(metric, task.card), facts


def _distributions(
    task: PreparedTask, cache: TokenCache, metric: Metric
) -> tuple[float, float, dict[str, Any]]:
    """The same from a token cache, which has the true token's log-probability and the entropy, rounded to 11 bits."""
    scores, entropy = [], 0.0
    for split in (TRAIN, VALIDATION):
        nll, count = 0.0, 0
        for group in cache.groups(split):
            column = cache.read_group(group).columns
            nll -= float(column["label_logprob"].values.sum(dtype=np.float64))
            count += int(column["loss"].values.sum())
            entropy += float(column["entropy"].values.sum(dtype=np.float64)) * (split == TRAIN)
        size = int(bytes_of(task, split).sum()) if metric == "bits_per_byte" else 0
        scores.append(nll / math.log(2) / size if size else nll / count)
        if split == TRAIN:
            entropy_of_train = entropy / count
    facts = {"classes": cache.manifest.vocabulary.size, "entropy": entropy_of_train, "confidence": None}
    return scores[0], scores[1], facts


@dataclass(frozen=True)
class _Split:
    """A teacher's outputs [N] on a split and the labels [N]; for classes also the mean nll, entropy and confidence."""

    outputs: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    nll: float | None
    entropy: float | None
    confidence: float | None

    def score(self, metric: Metric, card: TaskCard) -> float:
        if metric == "nll" and self.nll is not None:
            return self.nll
        return score_outputs(self.outputs, self.labels, metric, card.positive_class)


def _read(cache: LogitCache, task: PreparedTask, split: str) -> _Split:
    """Read a split's logits row group by row group; only each row's output is kept, not its logits."""
    rows = task.rows(split, ["row_hash", "label"])
    hashes, labels = rows["row_hash"].to_numpy(), rows["label"].to_numpy()
    done, outputs, entropy, confidence, nll = 0, [], 0.0, 0.0, 0.0
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
        nll -= float(logs[np.arange(len(logs)), labels[expected]].sum())
    if done != len(hashes) or not done:
        raise CacheError(
            f"{cache.path}: split {split!r} has {done} rows, {task.folder} has {len(hashes)}; run `dvc repro`"
        )
    means = (None,) * 3 if task.card.regression else (nll / done, entropy / done, confidence / done)
    return _Split(np.concatenate(outputs), labels, *means)


def always_the_same(task: PreparedTask, metric: Metric) -> float | None:
    """The score on validation of one answer for every row: train's commonest class, or its mean.

    For nll the answer is the classes' shares in train. Language modelling has no such score.
    """
    card = task.card
    if card.language_modelling:
        return None
    train, labels = (task.rows(split, ["label"])["label"].to_numpy() for split in (TRAIN, VALIDATION))
    if metric == "nll":
        return float(-np.log(np.bincount(train, minlength=card.classes) / len(train))[labels].mean())
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
    best = max(means, key=lambda name: unit_of(metric).worth(means[name]))
    return best, means[best]


def _taught(study: Study, task: str, teacher: str) -> Iterator[str]:
    """The students on a task whose teacher it is, or that learn from it through a method that names it."""
    for name, student in study.students.items():
        named = {
            teacher_name
            for method in study.methods().values()
            for teacher_name in method.teachers_of(student)
        }
        if study.applies(student, task) and teacher in named | set(student.teachers):
            yield name
