"""What a teacher's cached logits say: how sure it is and how often right, and where two teachers differ.

Everything is computed in float64 from raw logits at temperature 1; entropies and divergences are in nats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import log_softmax

from kdcache.errors import CacheError
from kdcache.logits.cache import LogitCache
from kdcache.logits.disk import CachedSplit
from kdcache.tasks.card import read_card
from kdcache.tasks.prepared import PreparedTask

BLOCK = 65536  # rows turned into float64 at a time
PERCENTILES = (5, 25, 50, 75, 95)
LARGEST = 10  # rows that `diff` names
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def stats(cache: LogitCache, split: str, labels: npt.ArrayLike | None = None) -> dict[str, Any]:
    """Describe the predictions of one split, as a JSON-like object.

    Args:
        labels: [N], the label of every row in ascending order of id, as in `cache.split(split)`: int64 classes, or
            real numbers for a regression (K = 1).

    Returns:
        `split`, `rows`, `classes`, and for a classification `entropy` (nats) and `top_probability`, each a mean and
        percentiles over the rows, and `predictions`, the rows per predicted class; for a regression `output`, the
        same of the one output. With labels also `labels`: accuracy, nll, brier and ece (pearson, spearman and mse),
        and `agreement`: per class, the share of its rows that are predicted as it (None where it has no rows).

    Raises:
        CacheError: there is no such split, it is empty, or damaged.
        ScoringError: the labels do not fit.
    """
    part = _filled_split(cache, split)
    answer: dict[str, Any] = {"split": split, "rows": len(part.ids), "classes": cache.manifest.classes}
    if cache.manifest.classes == 1:
        answer["output"] = _distribution(part.logits[:, 0].astype(np.float64))
    else:
        answer.update(_certainty(part), predictions=_counts(cache, part.logits.argmax(axis=1)))
    if labels is not None:
        answer["labels"] = _against_labels(cache, part, np.asarray(labels))
    return answer


def diff(a: LogitCache, b: LogitCache, split: str) -> dict[str, Any]:
    """Compare two teachers on the rows of one split that both have, as a JSON-like object.

    Rows are joined by id, and their hashes must agree. Logits are centred before they are compared (their mean over
    the classes is taken off each row), because a constant does not change the probabilities.

    Returns:
        `split`, `rows`, `only_a`, `only_b`, and for a classification `disagreement` (the share of rows with another
        predicted class), `kl_a_b` and `kl_b_a` (`mean` and `max` of KL(a||b) and KL(b||a)), `max_logit_difference`,
        and `largest`: the 10 rows of the largest KL(a||b), each with `id`, `kl` and both predicted classes. For a
        regression `mean_difference` and `max_difference` of the outputs' absolute difference.

    Raises:
        CacheError: the caches have other classes or other rows, or no row in common.
    """
    both = _join(a, b, split)
    answer: dict[str, Any] = {
        "split": split,
        "rows": len(both.ids),
        "only_a": a.manifest.splits[split].rows - len(both.ids),
        "only_b": b.manifest.splits[split].rows - len(both.ids),
    }
    if a.manifest.classes == 1:
        difference = np.abs(both.a.astype(np.float64) - both.b)
        return answer | {
            "mean_difference": float(difference.mean()),
            "max_difference": float(difference.max()),
        }
    return answer | _divergences(a, both)


def task_rows(cache: LogitCache, split: str, task: Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of a prepared task that a cached split belongs to, in its order (ascending id).

    Args:
        task: the prepared task's folder, see `kdcache.tasks`.
        columns: which ones to read beside `id` and `row_hash`; default all.

    Raises:
        CacheError: the cache is of other classes or other rows than the task.
        TaskError: the task is not prepared, or has no such split.
    """
    names, expected = cache.manifest.label_names, read_card(task).label_names
    if names and names != expected:
        raise CacheError(
            f"{cache.path}: is of another task than {task}: expected the labels {expected}, found {names}"
        )
    read = None if columns is None else ["id", "row_hash", *columns]
    table, part = PreparedTask(task).rows(split, read), cache.split(split)
    if len(part.ids) and part.ids[-1] >= table.num_rows:
        raise CacheError(
            f"{cache.path}: split {split!r} has row id {part.ids[-1]}, but {task} has {table.num_rows} rows there; "
            "give the task that the logits were cached of"
        )
    rows = table.take(pa.array(part.ids))
    _check_hashes(
        f"{cache.path}: split {split!r}", str(task), part.ids, rows["row_hash"].to_numpy(), part.row_hashes
    )
    return rows


def class_names(cache: LogitCache) -> list[str]:
    """The label names, or `0`, `1`, ... where the cache has none."""
    return cache.manifest.label_names or [str(k) for k in range(cache.manifest.classes)]


def _filled_split(cache: LogitCache, split: str) -> CachedSplit:
    cache.require_plain("a description of its predictions")
    part = cache.split(split)
    if not len(part.ids):
        raise CacheError(f"{cache.path}: split {split!r} has no rows to describe; name another split")
    return part


def _certainty(part: CachedSplit) -> dict[str, Any]:
    entropy, top = np.empty(len(part.ids)), np.empty(len(part.ids))
    for rows in _blocks(len(part.ids)):
        logs = _log_probabilities(part.logits[rows])
        entropy[rows] = -(np.exp(logs) * logs).sum(axis=1)
        top[rows] = np.exp(logs.max(axis=1))
    return {"entropy": _distribution(entropy), "top_probability": _distribution(top)}


def _distribution(values: Floats) -> dict[str, float]:
    levels = np.percentile(values, PERCENTILES)
    names = [f"p{percent}" for percent in PERCENTILES]
    return {"mean": float(values.mean())} | dict(zip(names, levels.tolist(), strict=True))


def _counts(cache: LogitCache, classes: Ints) -> dict[str, int]:
    counts = np.bincount(classes, minlength=cache.manifest.classes)
    return dict(zip(class_names(cache), counts.tolist(), strict=True))


def _against_labels(cache: LogitCache, part: CachedSplit, labels: npt.NDArray[Any]) -> dict[str, Any]:
    from kdcache.tasks import scoring  # imports scikit-learn: not before there are labels

    if cache.manifest.classes == 1:
        return dict(scoring.score(part.logits, labels, ["pearson", "spearman"], regression=True))
    scores = scoring.score(part.logits, labels, ["accuracy"])
    rows = _counts(cache, labels)
    right = _counts(cache, labels[part.logits.argmax(axis=1) == labels])
    agreement = {name: right[name] / count if count else None for name, count in rows.items()}
    return {**scores, "agreement": agreement}


@dataclass(frozen=True)
class _Pair:
    """The rows that two caches have in common: ids int64 [N], and their logits float32 [N, K]."""

    ids: Ints
    a: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32]


def _join(a: LogitCache, b: LogitCache, split: str) -> _Pair:
    for cache in (a, b):
        cache.require_plain("a comparison of two teachers")
    for what, expected, actual in (
        ("classes", a.manifest.classes, b.manifest.classes),
        ("label names", class_names(a), class_names(b)),
    ):
        if expected != actual:
            raise CacheError(
                f"{b.path}: cannot be compared with {a.path}: other {what}: expected {expected}, found {actual}"
            )
    one, other = a.split(split), b.split(split)
    ids, first, second = np.intersect1d(one.ids, other.ids, assume_unique=True, return_indices=True)
    if not len(ids):
        raise CacheError(
            f"{b.path}: split {split!r} has no row id in common with {a.path}; nothing to compare"
        )
    place = f"{b.path}: split {split!r}"
    _check_hashes(place, str(a.path), ids, one.row_hashes[first], other.row_hashes[second])
    return _Pair(ids, one.logits[first], other.logits[second])


def _check_hashes(
    place: str, other: str, ids: Ints, expected: npt.NDArray[np.uint64], actual: npt.NDArray[np.uint64]
) -> None:
    different = expected != actual
    if different.any():
        row = int(np.argmax(different))
        raise CacheError(
            f"{place}, row id {ids[row]}: is another row than in {other}: expected row hash {int(expected[row]):016x}, "
            f"found {int(actual[row]):016x} ({int(different.sum())} of {len(ids)} rows differ); "
            "the two are not of the same data"
        )


def _divergences(cache: LogitCache, both: _Pair) -> dict[str, Any]:
    forward, backward = np.empty(len(both.ids)), np.empty(len(both.ids))
    furthest = 0.0
    for rows in _blocks(len(both.ids)):
        a, b = _log_probabilities(both.a[rows]), _log_probabilities(both.b[rows])
        forward[rows], backward[rows] = _kl(a, b), _kl(b, a)
        furthest = max(furthest, float(np.abs(_centred(both.a[rows]) - _centred(both.b[rows])).max()))
    first, second = both.a.argmax(axis=1), both.b.argmax(axis=1)
    names = class_names(cache)
    largest = [
        {
            "id": int(both.ids[row]),
            "kl": float(forward[row]),
            "a": names[first[row]],
            "b": names[second[row]],
        }
        for row in np.argsort(-forward, kind="stable")[:LARGEST]
    ]
    return {
        "disagreement": float((first != second).mean()),
        "kl_a_b": {"mean": float(forward.mean()), "max": float(forward.max())},
        "kl_b_a": {"mean": float(backward.mean()), "max": float(backward.max())},
        "max_logit_difference": furthest,
        "largest": largest,
    }


def _kl(p: Floats, q: Floats) -> Floats:
    """KL(p||q) = sum_k p_k (log p_k - log q_k) of each row, from log probabilities; never below 0 by rounding."""
    divergence: Floats = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    return divergence


def _centred(logits: npt.NDArray[np.float32]) -> Floats:
    values: Floats = logits.astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    return values


def _log_probabilities(logits: npt.NDArray[np.float32]) -> Floats:
    logs: Floats = log_softmax(logits.astype(np.float64), axis=1)
    return logs


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, rows, BLOCK))
