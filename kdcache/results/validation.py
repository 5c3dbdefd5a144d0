"""What a study's trials say of the validation rows, from the logits that they keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.study import Study
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.layout import LOGITS, trial_folder

SPLIT = "validation"
Block: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any]]


@dataclass(frozen=True)
class Outputs:
    """What the trials of one configuration say of each validation row, one line a seed.

    labels [N] and outputs [S, N]: classes (the largest logit), or real numbers for a regression.
    """

    seeds: tuple[int, ...]
    labels: npt.NDArray[Any]
    outputs: npt.NDArray[Any]


class Validation:
    """What a study's trials say of the validation rows; each task's row hashes and labels are read once, and kept.

    Args:
        root: the folder that holds `tasks/` and `trials/`.

    Raises:
        CacheError: from its methods, when a trial's logits are missing, damaged, or of other rows than the task's.
        TaskError: likewise, when the task is not prepared.
    """

    def __init__(self, study: Study, root: Path) -> None:
        self._study = study
        self._root = root
        self._rows: dict[str, tuple[npt.NDArray[np.uint64], npt.NDArray[Any]]] = {}
        self._positive: dict[str, int] = {}

    def outputs(self, task: str, student: str, regularizer: str) -> Outputs:
        """The outputs of one configuration's trials for every row, in the order of the prepared task.

        Of two classes, 1 is the one that f1 is of: where the task names the first, labels and outputs are exchanged.
        The logits are read in pieces; what is kept is one number a row and seed.
        """
        hashes, labels = self._rows_of(task)
        caches = self._caches(task, student, regularizer)
        outputs = np.stack([_row_outputs(cache, hashes) for cache in caches])
        if self._positive[task] == 0:
            labels, outputs = 1 - labels, 1 - outputs
        return Outputs(tuple(self._study.seeds), labels, outputs)

    def logits(self, task: str, student: str, regularizer: str) -> Iterator[Block]:
        """The logits of one configuration's trials, all seeds, in pieces: logits [n, K] and labels [n]."""
        hashes, labels = self._rows_of(task)
        for cache in self._caches(task, student, regularizer):
            for ids, logits in _pieces(cache, hashes):
                yield logits, labels[ids]

    def _rows_of(self, task: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[Any]]:
        """Row hashes and labels of the prepared task's validation split."""
        if task not in self._rows:
            prepared = PreparedTask(self._root / "tasks" / task)
            self._positive[task] = prepared.card.positive_class
            rows = prepared.rows(SPLIT, ["row_hash", "label"])
            self._rows[task] = rows["row_hash"].to_numpy(), rows["label"].to_numpy()
        return self._rows[task]

    def _caches(self, task: str, student: str, regularizer: str) -> list[LogitCache]:
        folder = self._root / "trials" / task / student / regularizer
        return [LogitCache(trial_folder(folder, seed) / LOGITS) for seed in self._study.seeds]


def _row_outputs(cache: LogitCache, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    """[N]: the predicted class, or the one output, of every row; none missing, none of another row."""
    single = cache.manifest.classes == 1
    outputs = np.zeros(len(hashes), dtype=np.float64 if single else np.int64)
    for ids, logits in _pieces(cache, hashes):
        outputs[ids] = logits[:, 0] if single else logits.argmax(axis=1)
    return outputs


def _pieces(cache: LogitCache, hashes: npt.NDArray[np.uint64]) -> Iterator[Block]:
    """Row ids [n] and logits [n, K], row group by row group; an error for another row, at the end for a missing one."""
    seen = np.zeros(len(hashes), dtype=bool)
    for group in cache.groups(SPLIT):
        part = cache.read_group(group)
        inside = (part.ids >= 0) & (part.ids < len(hashes))
        if not inside.all() or (part.row_hashes != hashes[part.ids]).any():
            raise CacheError(
                f"{cache.path}: split {SPLIT!r} has logits of other rows than the prepared task; run `dvc repro`"
            )
        yield part.ids, part.logits
        seen[part.ids] = True
    if not seen.all():
        raise CacheError(
            f"{cache.path}: split {SPLIT!r} lacks {int((~seen).sum())} of the task's {len(hashes)} rows, the first is "
            f"row {int(np.argmin(seen))}; run `dvc repro`"
        )
