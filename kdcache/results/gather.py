"""Gather a study's results from disk into tables: one row per trial, and what everything cost.

The grid is enumerated from the study's params, never by looking at which folders exist: what a study no longer asks
for is in no table, and what is missing is an error that names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from kdcache.errors import CacheError, KdcacheError
from kdcache.logits import LogitCache
from kdcache.study import UNLABELLED, Study
from kdcache.system.files import read_json
from kdcache.tasks.card import read_card
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.identity import caches_beside
from kdcache.trials.layout import LOGITS, TEACHER, trial_folder
from kdcache.trials.result import TrialResult, read_result

DESCRIPTION = ["task", "student", "family", "init", "checkpoint", "layers", "teacher", "regularizer", "seed"]
FIGURES = ["seconds", "peak_memory_mb", "device", "identity"]
SPLIT = "validation"
CURVES = ["task", "student", "init", "regularizer", "epoch"]
COST = ["kind", "task", "model", "regularizer", "seed", "seconds", "peak_memory_mb", "device"]
STATISTICS = ("kdcache", "numpy", "scipy", "pandas", "statsmodels")
Block: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class ResultsError(KdcacheError):
    """Results that the study asks for are missing."""


@dataclass(frozen=True)
class Outputs:
    """What the trials of one configuration say of each validation row, one line a seed.

    labels [N] and outputs [S, N]: classes (the largest logit), or real numbers for a regression.
    """

    seeds: tuple[int, ...]
    labels: npt.NDArray[Any]
    outputs: npt.NDArray[Any]


def read_trials(study: Study, trials: Path) -> list[TrialResult]:
    """Every trial of the study's grid, in the order of params.yaml.

    Args:
        trials: the folder that holds `<task>/<student>/<regularizer>/seed-<s>/`.

    Raises:
        ResultsError: trials are missing (the first few are named), or a student began with different weights.
    """
    found, missing = [], []
    for task, student, regularizer in study.configurations():
        for seed in study.seeds:
            folder = trial_folder(trials / task / student / regularizer, seed)
            result = read_result(folder)
            if result is None:
                missing.append(str(folder))
            else:
                found.append(result)
    if missing:
        listed = "\n".join(f"  {folder}" for folder in missing[:10])
        raise ResultsError(f"{len(missing)} trials are missing (run `dvc repro`), the first are:\n{listed}")
    _check_starts(found)
    return found


def _check_starts(results: list[TrialResult]) -> None:
    """Only trials that began with the same model can be compared: a branch of the hub moves, perhaps half-way."""
    starts: dict[tuple[str, str], dict[str | None, TrialResult]] = {}
    for result in results:
        starts.setdefault((result.task, result.student), {}).setdefault(result.start, result)
    for (task, student), kinds in starts.items():
        if len(kinds) > 1:
            listed = "; ".join(
                f"{kind.regularizer} seed {kind.seed}: {kind.commit or 'a folder'}" for kind in kinds.values()
            )
            raise ResultsError(
                f"students.{student}: its trials on {task} did not begin with the same weights and tokenizer "
                f"({kinds[next(iter(kinds))].checkpoint} at {listed}); pin `revision` to one commit and run `dvc repro`"
            )


def trials_table(study: Study, results: Sequence[TrialResult]) -> pd.DataFrame:
    """metrics/trials.csv: one row per trial, each metric a fraction 0..1 in its own column, then cost and identity.

    Args:
        results: those of `read_trials`.
    """
    rows = [_trial_row(result, study) for result in results]
    table = pd.DataFrame(rows)
    metrics = [column for column in table.columns if column not in DESCRIPTION + FIGURES]
    table["layers"] = table["layers"].astype("Int64")
    return table[DESCRIPTION + metrics + FIGURES]


def _trial_row(result: TrialResult, study: Study) -> dict[str, Any]:
    fields, student = result.model_dump(), study.students[result.student]
    # Names that a trial is kept under when they change: a moved checkpoint, a teacher of another name.
    teacher = study.method(result.regularizer).teacher_name(student)
    fields |= {"checkpoint": student.checkpoint, "teacher": teacher}
    return {
        **{name: fields[name] for name in DESCRIPTION},
        **(result.metrics or {}),
        **{n: fields[n] for n in FIGURES},
    }


def cost_table(study: Study, root: Path, results: Iterable[TrialResult]) -> pd.DataFrame:
    """metrics/cost.csv: one row per teacher (paid once), logit cache and trial: seconds, MiB, device.

    A cache is of kind `cache`; those inside it of augmented views and of unlabelled rows are `views` and `unlabelled`.

    Args:
        root: the folder that holds `logits/`.
        results: those of `read_trials`.
    """
    rows = [*_teacher_costs(study, root), *map(_trial_cost, results)]
    return pd.DataFrame(rows, columns=COST).astype({"seed": "Int64"})


def _teacher_costs(study: Study, root: Path) -> Iterator[dict[str, Any]]:
    for task, teacher in study.taught():
        folder = root / "logits" / task / teacher
        taught, cost = read_json(folder / TEACHER), LogitCache(folder).cost
        common = {"task": task, "model": teacher, "regularizer": None, "seed": None}
        yield {"kind": "teacher", **common, **{key: taught[key] for key in FIGURES[:3]}}
        yield {"kind": "cache", **common, **{key: getattr(cost, key) for key in FIGURES[:3]}}
        for part in caches_beside(study.tasks[task]):
            cost = LogitCache(folder / part).cost
            yield {"kind": part, **common, **{key: getattr(cost, key) for key in FIGURES[:3]}}


def _trial_cost(result: TrialResult) -> dict[str, Any]:
    return {
        "kind": "trial",
        "task": result.task,
        "model": result.student,
        "regularizer": result.regularizer,
        "seed": result.seed,
        "seconds": result.seconds,
        "peak_memory_mb": result.peak_memory_mb,
        "device": result.device,
    }


def curves_table(results: Iterable[TrialResult]) -> pd.DataFrame:
    """metrics/curves.csv: one row per configuration and epoch, the mean training loss over its seeds and their sd.

    `seeds` is how many have that epoch. The loss is what the regularizer trains on, soft labels and all: its level
    says nothing between regularizers, its course does.

    Args:
        results: those of `read_trials`.
    """
    rows = [
        [result.task, result.student, result.init, result.regularizer, epoch, loss]
        for result in results
        for epoch, loss in enumerate(result.losses, start=1)
    ]
    losses = pd.DataFrame(rows, columns=[*CURVES, "loss"]).groupby(CURVES, sort=False)["loss"]
    return losses.agg(seeds="count", loss="mean", sd="std").reset_index()


def provenance(study: Study, root: Path, results: Sequence[TrialResult]) -> dict[str, Any]:
    """metrics/provenance.json: with what the numbers were made, and of what.

    - format: 1
    - trials: how many; versions: {library: [versions that trials ran with]}; devices: {"device, precision": trials}
    - statistics: {library: version} that compared them, this package and Python included
    - tasks: {name: {rows: {split: count}, data: fingerprint}}, and unlabelled: that of the unlabelled rows, if any
    - caches: list of {task, teacher, cache: its identity, data, weights, preprocessing, code: fingerprints}, and where
      there are such caches, views and unlabelled: the identities of those of its views and of its unlabelled rows

    Args:
        root: the folder that holds `tasks/` and `logits/`.
        results: those of `read_trials`.
    """
    names = dict.fromkeys(name for result in results for name in result.versions)
    return {
        "format": 1,
        "trials": len(results),
        "versions": {
            name: sorted({r.versions[name] for r in results if name in r.versions}) for name in names
        },
        "devices": dict(Counter(f"{result.device}, {result.precision}" for result in results)),
        "statistics": {name: metadata.version(name) for name in STATISTICS} | {"python": python_version()},
        "tasks": {name: _task_facts(root, name) for name in study.tasks},
        "caches": [_cache_facts(study, root, task, teacher) for task, teacher in study.taught()],
    }


def _task_facts(root: Path, task: str) -> dict[str, Any]:
    card = read_card(root / "tasks" / task)
    more = {} if card.unlabelled is None else {UNLABELLED: card.unlabelled.fingerprint}
    return {"rows": card.rows, "data": card.fingerprint, **more}


def _cache_facts(study: Study, root: Path, task: str, teacher: str) -> dict[str, Any]:
    folder = root / "logits" / task / teacher
    cache = LogitCache(folder)
    beside = {part: LogitCache(folder / part).identity for part in caches_beside(study.tasks[task])}
    prints = cache.manifest.fingerprints.model_dump()
    return {"task": task, "teacher": teacher, "cache": cache.identity, **beside, **prints}


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
