"""Describe a teacher's cached logits (how sure it is, and how often it is right), and compare two teachers.

Everything is computed in float64 from raw logits at temperature 1. Entropies and divergences are in nats. Splits are
read one row group at a time. So caches larger than memory can be described and compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdcache.errors import CacheError
from kdcache.logits.cache import LogitCache
from kdcache.logits.probabilities import log_softmax
from kdcache.logits.scan import by_id, in_both
from kdcache.tasks.card import read_card
from kdcache.tasks.prepared import PreparedTask

PERCENTILES = (5, 25, 50, 75, 95)
LARGEST = 10  # rows that `diff` names
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def stats(cache: LogitCache, split: str, labels: npt.ArrayLike | None = None) -> dict[str, Any]:
    """Describe the predictions of one split, as a JSON-like object.

    Args:
        labels: [N], the label of every row, in ascending order of ids as in `cache.split(split)`: int64 classes, or
            real numbers for a regression (K = 1).

    Returns:
        `split`, `rows`, `classes`. For a classification: `entropy` (nats) and `top_probability`, each with mean and
        percentiles over the rows, and `predictions`, the number of rows per predicted class. For a regression:
        `output`, with mean and percentiles of the output. With labels also `labels` (accuracy, nll, brier and ece; for
        a regression pearson, spearman and mse) and `agreement`: for each class, the share of its rows that are
        predicted to be in it (None if it has no rows).

    Raises:
        CacheError: there is no such split, or it is empty or damaged.
        ScoringError: the labels do not fit the rows.
    """
    _require_rows(cache, split)
    count, classes = cache.manifest.splits[split].rows, cache.manifest.classes
    described: dict[str, Any] = {"split": split, "rows": count, "classes": classes}
    if classes == 1:
        outputs = np.concatenate([part.logits[:, 0].astype(np.float64) for part in by_id(cache, split)])
        described["output"] = _distribution(outputs)
        return described if labels is None else {**described, "labels": _regression_scores(outputs, labels)}
    known = None if labels is None else _checked_labels(labels, count, classes)
    rows = _Certainty(count, classes)
    for part in by_id(cache, split):
        rows.add(part.logits, None if known is None else known[rows.done : rows.done + len(part.ids)])
    described |= {
        "entropy": _distribution(rows.entropy),
        "top_probability": _distribution(rows.top),
        "predictions": _named(cache, rows.predicted),
    }
    return described if known is None else {**described, "labels": rows.scores(cache, known)}


def diff(a: LogitCache, b: LogitCache, split: str) -> dict[str, Any]:
    """Compare two teachers on the rows of one split that both have, as a JSON-like object.

    Rows are joined by id, and their hashes must agree. Logits are centred before they are compared (each row's mean
    over the classes is subtracted), because a constant does not change the probabilities.

    Returns:
        `split`, `rows` (in both), `only_a`, `only_b`. For a classification: `disagreement` (the share of rows with
        different predicted classes), `kl_a_b` and `kl_b_a` (`mean` and `max` of KL(a||b) and KL(b||a)),
        `max_logit_difference`, and `largest`: the 10 rows with the largest KL(a||b), each with `id`, `kl` and both
        predicted classes. For a regression: `mean_difference` and `max_difference` of the absolute difference.

    Raises:
        CacheError: the caches differ in their classes or in a row with the same id, or have no row in common.
    """
    _check_comparable(a, b)
    compared = _Differences(class_names(a))
    for rows_a, rows_b in in_both(by_id(a, split), by_id(b, split)):
        hashes = rows_a.row_hashes, rows_b.row_hashes
        _check_hashes(f"{b.path}: split {split!r}", str(a.path), rows_a.ids, *hashes)
        compared.add(rows_a.ids, rows_a.logits, rows_b.logits)
    if not compared.rows:
        raise CacheError(
            f"{b.path}: split {split!r} has no row id in common with {a.path}; nothing to compare"
        )
    facts: dict[str, Any] = {
        "split": split,
        "rows": compared.rows,
        "only_a": a.manifest.splits[split].rows - compared.rows,
        "only_b": b.manifest.splits[split].rows - compared.rows,
    }
    return facts | (compared.of_outputs() if a.manifest.classes == 1 else compared.of_classes())


def task_rows(cache: LogitCache, split: str, task: Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of a prepared task that belong to a cached split, in ascending order of ids.

    Args:
        task: the prepared task's folder, see `kdcache.tasks`.
        columns: the columns to read in addition to `id` and `row_hash`; default: all.

    Raises:
        CacheError: the cache has other classes or other rows than the task.
        TaskError: the task is not prepared, or has no such split.
    """
    names, expected = cache.manifest.label_names, read_card(task).label_names
    if names and names != expected:
        raise CacheError(
            f"{cache.path}: is of another task than {task}: expected the labels {expected}, found {names}"
        )
    read_columns = None if columns is None else ["id", "row_hash", *columns]
    table, (ids, hashes) = PreparedTask(task).rows(split, read_columns), _ids_and_hashes(cache, split)
    if len(ids) and ids[-1] >= table.num_rows:
        raise CacheError(
            f"{cache.path}: split {split!r} has row id {ids[-1]}, but {task} has {table.num_rows} rows there; "
            "give the task that the logits were cached of"
        )
    rows = table.take(pa.array(ids))
    _check_hashes(f"{cache.path}: split {split!r}", str(task), ids, rows["row_hash"].to_numpy(), hashes)
    return rows


def _ids_and_hashes(cache: LogitCache, split: str) -> tuple[Ints, npt.NDArray[np.uint64]]:
    """The ids and row hashes of all rows, in ascending order of ids."""
    ids, hashes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for part in by_id(cache, split):
        ids.append(part.ids)
        hashes.append(part.row_hashes)
    return np.concatenate(ids), np.concatenate(hashes)


def class_names(cache: LogitCache) -> list[str]:
    """The label names, or `0`, `1`, ... if the cache has none."""
    return cache.manifest.label_names or [str(k) for k in range(cache.manifest.classes)]


def _require_rows(cache: LogitCache, split: str) -> None:
    cache.require_plain("a description of its predictions")
    if not cache.groups(split):
        raise CacheError(f"{cache.path}: split {split!r} has no rows to describe; name another split")


class _Certainty:
    """Gathers, piece by piece, how sure a classifier is on each row and how often it is right.

    It keeps 17 bytes for each row (percentiles need all values), for any number of classes.
    """

    def __init__(self, rows: int, classes: int) -> None:
        self.entropy, self.top = np.empty(rows), np.empty(rows)
        self.correct = np.zeros(rows, dtype=bool)
        self.predicted, self.right = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self.nll, self.brier = 0.0, 0.0  # sums
        self.done = 0

    def add(self, logits: npt.NDArray[np.float32], labels: Ints | None) -> None:
        """Add the next rows: logits [n, K], and their labels [n]."""
        rows, classes = slice(self.done, self.done + len(logits)), len(self.predicted)
        logs = _log_probabilities(logits)
        predicted = logits.argmax(axis=1)
        self.entropy[rows] = -(np.exp(logs) * logs).sum(axis=1)
        self.top[rows] = np.exp(logs.max(axis=1))
        self.predicted += np.bincount(predicted, minlength=classes)
        self.done = rows.stop
        if labels is not None:
            correct = predicted == labels
            self.correct[rows] = correct
            self.right += np.bincount(labels[correct], minlength=classes)
            self.nll -= float(logs[np.arange(len(labels)), labels].sum())
            errors = np.exp(logs)
            errors[np.arange(len(labels)), labels] -= 1
            self.brier += float((errors**2).sum())

    def scores(self, cache: LogitCache, labels: Ints) -> dict[str, Any]:
        """The scores against the labels [N]."""
        from kdcache.tasks.scoring import calibration_error

        rows, right = _named(cache, np.bincount(labels, minlength=len(self.right))), _named(cache, self.right)
        return {
            "accuracy": float(self.correct.mean()),
            "nll": self.nll / len(labels),
            "brier": self.brier / len(labels),
            "ece": calibration_error(self.top, self.correct),
            "agreement": {name: right[name] / count if count else None for name, count in rows.items()},
        }


def _checked_labels(labels: npt.ArrayLike, rows: int, classes: int) -> Ints:
    from kdcache.tasks.scoring import checked_classes  # imports scikit-learn, so only if there are labels

    return checked_classes(labels, rows, classes)


def _regression_scores(outputs: Floats, labels: npt.ArrayLike) -> dict[str, Any]:
    from kdcache.tasks import scoring

    return dict(scoring.score(outputs[:, None], labels, ["pearson", "spearman"], regression=True))


def _distribution(values: Floats) -> dict[str, float]:
    levels = np.percentile(values, PERCENTILES)
    names = [f"p{percent}" for percent in PERCENTILES]
    return {"mean": float(values.mean())} | dict(zip(names, levels.tolist(), strict=True))


def _named(cache: LogitCache, counts: Ints) -> dict[str, int]:
    return dict(zip(class_names(cache), counts.tolist(), strict=True))


def _check_comparable(a: LogitCache, b: LogitCache) -> None:
    for cache in (a, b):
        cache.require_plain("a comparison of two teachers")
    for name, expected, actual in (
        ("classes", a.manifest.classes, b.manifest.classes),
        ("label names", class_names(a), class_names(b)),
        ("row hashes' algorithm", a.row_hash, b.row_hash),
    ):
        if expected != actual:
            raise CacheError(
                f"{b.path}: cannot be compared with {a.path}: other {name}: expected {expected!s:.300}, "
                f"found {actual!s:.300}"
            )


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


class _Differences:
    """Gathers, piece by piece, how two teachers differ on the rows that both have. It keeps no row."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.rows, self.disagreeing = 0, 0
        self.forward, self.backward, self.distance = _MeanAndMax(), _MeanAndMax(), _MeanAndMax()
        self.largest: list[dict[str, Any]] = []

    def add(self, ids: Ints, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> None:
        """Add the next rows, in ascending order of ids: ids [n], and logits [n, K] of both."""
        self.rows += len(ids)
        if len(self.names) == 1:
            self.distance.add(np.abs(a.astype(np.float64) - b))
            return
        p, q = _log_probabilities(a), _log_probabilities(b)
        forward = _kl(p, q)
        self.forward.add(forward)
        self.backward.add(_kl(q, p))
        self.distance.add(np.abs(_centred(a) - _centred(b)))
        first, second = a.argmax(axis=1), b.argmax(axis=1)
        self.disagreeing += int((first != second).sum())
        for row in np.argsort(-forward, kind="stable")[:LARGEST]:
            names = {"a": self.names[first[row]], "b": self.names[second[row]]}
            self.largest.append({"id": int(ids[row]), "kl": float(forward[row]), **names})
        self.largest = sorted(self.largest, key=lambda difference: -difference["kl"])[
            :LARGEST
        ]  # if several are equal, the lowest ids come first

    def of_outputs(self) -> dict[str, Any]:
        """The facts of a regression."""
        return {"mean_difference": self.distance.mean, "max_difference": self.distance.largest}

    def of_classes(self) -> dict[str, Any]:
        """The facts of a classification."""
        return {
            "disagreement": self.disagreeing / self.rows,
            "kl_a_b": {"mean": self.forward.mean, "max": self.forward.largest},
            "kl_b_a": {"mean": self.backward.mean, "max": self.backward.largest},
            "max_logit_difference": self.distance.largest,
            "largest": self.largest,
        }


class _MeanAndMax:
    """The mean and maximum of numbers that come in pieces."""

    def __init__(self) -> None:
        self._sum, self._count, self.largest = 0.0, 0, 0.0

    def add(self, values: Floats) -> None:
        self._sum += float(values.sum())
        self._count += values.size
        self.largest = max(self.largest, float(values.max()))

    @property
    def mean(self) -> float:
        return self._sum / self._count


def _kl(p: Floats, q: Floats) -> Floats:
    """Each row's KL(p||q) = sum_k p_k (log p_k - log q_k), from log-probabilities. Rounding never makes it negative."""
    divergence: Floats = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    return divergence


def _centred(logits: npt.NDArray[np.float32]) -> Floats:
    values: Floats = logits.astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    return values


def _log_probabilities(logits: npt.NDArray[np.float32]) -> Floats:
    return log_softmax(logits.astype(np.float64))
