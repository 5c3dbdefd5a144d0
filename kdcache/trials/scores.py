"""Scores, computed from the logits that a trial or a cache keeps; they are never stored beside the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from kdcache.logits import LogitCache
from kdcache.tasks import scoring
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.layout import LOGITS
from kdcache.trials.likelihoods import Documents, path_of, read_documents


def score_logits(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[Any], card: TaskCard
) -> dict[str, float]:
    """Every score that the task can have, from logits [N, K] and labels [N], as fractions 0..1."""
    names = scoring.applicable_metrics(card.classes, card.regression)
    return scoring.score(logits, labels, names, card.regression, card.positive_class)


def score_documents(documents: Documents, task: PreparedTask, split: str) -> dict[str, float]:
    """Every score of a language model on a split: nll, bits_per_byte and ece; see `scoring.score_tokens`."""
    size = int(bytes_of(task, split).sum())
    tokens = documents.nll.values, documents.confidence.values, documents.right.values
    return scoring.score_tokens(*tokens, size)


def bytes_of(task: PreparedTask, split: str) -> npt.NDArray[np.int64]:
    """How many bytes of UTF-8 each document of a split has."""
    texts = task.rows(split, ["text"])["text"]
    return np.asarray(pc.binary_length(texts).to_numpy(), dtype=np.int64)


def trial_scores(trial: Path, task: PreparedTask) -> dict[str, float]:
    """A finished trial's scores on every evaluated split, from its logits or likelihoods; every row is checked.

    Scores on validation are named by their metric, those on a further split `<metric>_<split>`.

    Raises:
        CacheError: what the trial keeps is missing or damaged, or belongs to other rows.
    """
    return _document_scores(trial, task) if task.card.language_modelling else _row_scores(trial, task)


def _document_scores(trial: Path, task: PreparedTask) -> dict[str, float]:
    scores = {}
    for split in task.card.evaluated:
        hashes = task.rows(split, ["row_hash"])["row_hash"].to_numpy()
        documents = read_documents(path_of(trial, split), hashes)
        for metric, value in score_documents(documents, task, split).items():
            scores[named(metric, split)] = value
    return scores


def _row_scores(trial: Path, task: PreparedTask) -> dict[str, float]:
    cache, scores = LogitCache(trial / LOGITS), {}
    for split in task.card.evaluated:
        rows = task.rows(split, ["id", "row_hash", "label"])
        logits = cache.logits(split, rows["id"].to_numpy(), rows["row_hash"].to_numpy())
        for metric, value in score_logits(logits, rows["label"].to_numpy(), task.card).items():
            scores[named(metric, split)] = value
    return scores


def named(metric: str, split: str) -> str:
    """A score's name in tables: on validation the metric's name, on a further split `<metric>_<split>`."""
    return metric if split == "validation" else f"{metric}_{split}"
