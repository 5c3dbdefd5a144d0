"""Scores, computed from the logits that a trial or a cache keeps; they are never stored beside the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.logits import LogitCache
from kdcache.tasks import scoring
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.layout import LOGITS


def score_logits(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[Any], card: TaskCard
) -> dict[str, float]:
    """Every score that the task can have, from logits [N, K] and labels [N], as fractions 0..1."""
    names = scoring.applicable_metrics(card.classes, card.regression)
    return scoring.score(logits, labels, names, card.regression, card.positive_class)


def trial_scores(trial: Path, task: PreparedTask) -> dict[str, float]:
    """A finished trial's scores on every evaluated split, from its logits; every row is checked.

    Scores on validation are named by their metric, those on a further split `<metric>_<split>`.

    Raises:
        CacheError: the logits are missing, damaged, or of other rows.
    """
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
