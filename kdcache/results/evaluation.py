"""What trials keep says of the evaluated rows: scores, outputs row by row, and how sure they are.

Scores are computed from logits and never stored beside them. So a new metric needs no training, and an edited score is
noticed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax

from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.results.gather import ResultsError
from kdcache.study import Study
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.scoring import ECE_BINS, score_tokens
from kdcache.trials.layout import LOGITS, trial_folder
from kdcache.trials.likelihoods import path_of, read_documents
from kdcache.trials.result import TrialResult
from kdcache.trials.scores import bytes_of, named, score_logits

VALIDATION = "validation"
Configuration: TypeAlias = tuple[str, str, str]  # task, student, regularizer
Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Outputs:
    """The outputs of one configuration's trials for each validation row.

    labels [N] and outputs [S, N]: classes (the largest logit), or real numbers for a regression. With two classes,
    class 1 is the one that f1 is of. If a task is judged by a loss (nll, bits_per_byte), a row's output is the sum of
    its losses, and its label is the divisor of that sum: 1, or a document's tokens or bytes.
    """

    seeds: tuple[int, ...]
    labels: Array
    outputs: Array


@dataclass(frozen=True)
class _Task:
    """A prepared task's card, its metric, and for each evaluated split the row hashes [N] and labels [N].

    The label of a document is its size in bytes.
    """

    card: TaskCard
    metric: str
    rows: Mapping[str, tuple[npt.NDArray[np.uint64], Array]]


@dataclass(frozen=True)
class _Read:
    """What was read of one trial: each validation row's output and label, and the sureness over all rows."""

    outputs: Array
    labels: Array
    sureness: Array | None


class Evaluation:
    """Evaluates the logits of a study's trials, reading each trial's once, in one pass over the configurations.

    `outputs` reads a configuration's logits and keeps their scores and sureness, which are small. `scores` and
    `sureness` read only what is not kept yet, so call `outputs` first. At most one trial's logits are in memory.

    Args:
        root: the folder that holds `tasks/` and `trials/`.
        results: the study's; scores recorded in a result of kdcache 0.1 are compared with those of its logits.

    Raises:
        CacheError: from the methods: a trial's logits are missing, damaged, or of other rows than the task's.
        ResultsError: from the methods: result.json has other scores than its logits give.
        TaskError: from the methods: the task is not prepared.
    """

    def __init__(self, study: Study, root: Path, results: Iterable[TrialResult]) -> None:
        self._study, self._root = study, root
        self._recorded = {
            (*_configuration(result), result.seed): result.metrics for result in results if result.metrics
        }
        self._tasks: dict[str, _Task] = {}
        self._scores: dict[tuple[str, str, str, int], dict[str, float]] = {}
        self._sureness: dict[Configuration, Array] = {}

    def outputs(self, task: str, student: str, regularizer: str) -> Outputs:
        """The outputs of one configuration's trials for every validation row, in the order of the prepared task."""
        opened, configuration = self._open(task), (task, student, regularizer)
        seeds = self._study.seeds_of(*configuration)
        read = self._read_documents if opened.card.language_modelling else self._read_rows
        stacked, sureness = [], np.zeros((3, ECE_BINS))
        for seed in seeds:
            predictions = read(opened, configuration, seed)
            stacked.append(predictions.outputs)
            if predictions.sureness is not None:
                sureness += predictions.sureness
        self._sureness[configuration] = sureness
        return Outputs(tuple(seeds), predictions.labels, np.stack(stacked))

    def scores(self, result: TrialResult) -> dict[str, float]:
        """A trial's scores, by the metric's name on validation, and by `<metric>_<split>` on a further split."""
        key = (*_configuration(result), result.seed)
        if key not in self._scores:
            self.outputs(*_configuration(result))
        return self._scores[key]

    def sureness(self, task: str, student: str, regularizer: str) -> Array:
        """[3, bins]: the sum of `bin_sureness` over all seeds of a classification configuration."""
        if (task, student, regularizer) not in self._sureness:
            self.outputs(task, student, regularizer)
        return self._sureness[task, student, regularizer]

    def _open(self, task: str) -> _Task:
        if task not in self._tasks:
            prepared, rows = PreparedTask(self._root / "tasks" / task), {}
            for split in prepared.card.evaluated:
                hashes = prepared.rows(split, ["row_hash"])["row_hash"].to_numpy()
                rows[split] = hashes, _labels(prepared, split)
            self._tasks[task] = _Task(prepared.card, self._study.tasks[task].metrics[0], rows)
        return self._tasks[task]

    def _read_documents(self, task: _Task, configuration: Configuration, seed: int) -> _Read:
        """Read a language model's trial on the validation documents, and keep its scores on every split."""
        folder, scores = trial_folder(self._root.joinpath("trials", *configuration), seed), {}
        for split, (hashes, sizes) in task.rows.items():
            documents = read_documents(path_of(folder, split), hashes)
            tokens = documents.nll.values, documents.confidence.values, documents.right.values
            for metric, value in score_tokens(*tokens, int(sizes.sum())).items():
                scores[named(metric, split)] = value
            if split == VALIDATION:
                kept = documents
        self._scores[*configuration, seed] = scores
        sureness = bins_of(kept.confidence.values.astype(np.float64), kept.right.values)
        if task.metric == "nll":
            return _Read(kept.sums, kept.tokens, sureness)
        return _Read(kept.sums / math.log(2), task.rows[VALIDATION][1], sureness)

    def _read_rows(self, task: _Task, configuration: Configuration, seed: int) -> _Read:
        """Read a trial's logits on the validation rows, and keep its scores on every evaluated split."""
        folder = trial_folder(self._root.joinpath("trials", *configuration), seed)
        cache, scores = LogitCache(folder / LOGITS), {}
        logits = {split: _read_split(cache, split, hashes) for split, (hashes, _) in task.rows.items()}
        for split, (_, labels) in task.rows.items():
            for metric, value in score_logits(logits[split], labels, task.card).items():
                scores[named(metric, split)] = value
        _compare_scores(folder, self._recorded.get((*configuration, seed), {}), scores)
        self._scores[*configuration, seed] = scores
        return _outputs(task, logits[VALIDATION])


def _labels(task: PreparedTask, split: str) -> Array:
    return (
        bytes_of(task, split)
        if task.card.language_modelling
        else task.rows(split, ["label"])["label"].to_numpy()
    )


def _outputs(task: _Task, logits: Array) -> _Read:
    """The outputs on the validation rows from their logits: predictions, or losses if the task is judged by a loss."""
    card, labels = task.card, task.rows[VALIDATION][1]
    if card.regression:
        return _Read(logits[:, 0].astype(np.float64), labels, None)
    sureness = bin_sureness(logits, labels)
    if task.metric == "nll":
        losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
        return _Read(losses, np.ones(len(labels)), sureness)
    classes = logits.argmax(axis=1)
    if card.classes == 2 and card.positive_class == 0:
        return _Read(1 - classes, 1 - labels, sureness)
    return _Read(classes, labels, sureness)


def _configuration(result: TrialResult) -> Configuration:
    return result.task, result.student, result.regularizer


def _compare_scores(folder: Path, recorded: Mapping[str, float], scores: Mapping[str, float]) -> None:
    for metric, value in recorded.items():
        if not math.isclose(value, scores.get(metric, math.nan), rel_tol=1e-6, abs_tol=1e-9):
            raise ResultsError(
                f"{folder}: result.json says {metric} {value}, the logits beside it give {scores.get(metric)}; one of "
                "them was edited: delete the folder and run `dvc repro`"
            )


def _read_split(cache: LogitCache, split: str, hashes: npt.NDArray[np.uint64]) -> Array:
    """A split's logits [N, K] in the order of the task's rows; refuses a missing or different row."""
    logits = np.empty((len(hashes), cache.manifest.classes), dtype=np.float32)
    seen = np.zeros(len(hashes), dtype=bool)
    for group in cache.groups(split):
        part = cache.read_group(group)
        inside = (part.ids >= 0) & (part.ids < len(hashes))
        if not inside.all() or (part.row_hashes != hashes[part.ids]).any():
            raise CacheError(
                f"{cache.path}: split {split!r} has logits of other rows than the prepared task; run `dvc repro`"
            )
        logits[part.ids] = part.logits
        seen[part.ids] = True
    if not seen.all():
        raise CacheError(
            f"{cache.path}: split {split!r} lacks {int((~seen).sum())} of the task's {len(hashes)} rows, the first is "
            f"row {int(np.argmin(seen))}; run `dvc repro`"
        )
    return logits


def bin_sureness(logits: Array, labels: Array, bins: int = ECE_BINS) -> npt.NDArray[np.float64]:
    """[3, bins]: for each bin of the largest probability: number of rows, sum of that probability, rows that are right.

    The numbers of a reliability diagram, in the bins of `scoring.ece`: ((b-1)/bins, b/bins].

    Args:
        logits: [n, K]; labels: [n] classes.
    """
    sure = softmax(np.asarray(logits, dtype=np.float64), axis=1).max(axis=1)
    return bins_of(sure, logits.argmax(axis=1) == labels, bins)


def bins_of(sure: Array, right: Array, bins: int = ECE_BINS) -> npt.NDArray[np.float64]:
    """`bin_sureness` from the largest probability of each row or token, and whether that is the label's."""
    index = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    weights = (np.ones(len(sure)), sure, right)
    return np.stack([np.bincount(index, weights=row_weights, minlength=bins) for row_weights in weights])
