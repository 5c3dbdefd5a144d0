"""metrics/provenance.json: the versions, devices, data and caches that the numbers come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

from kdcache.logits import LogitCache
from kdcache.logits.opening import open_cache
from kdcache.results.teachers import always_the_same
from kdcache.study import UNLABELLED, Study
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.identity import caches_beside
from kdcache.trials.result import TrialResult

STATISTICS = ("kdcache", "numpy", "scipy", "pandas", "statsmodels")


def provenance(study: Study, root: Path, results: Sequence[TrialResult]) -> dict[str, Any]:
    """The content of metrics/provenance.json.

    - format: 1
    - trials: number; versions: {library: [versions that trials ran with]}; devices: {"device, precision": trials}
    - statistics: {library: version} used for the comparison, this package and Python included
    - tasks: {name: {rows: {split: count}, data: fingerprint, majority: the score on validation of one answer for every
      row, in the task's first metric, null for language modelling}}, and unlabelled: the fingerprint of the unlabelled
      rows, if any
    - adopted: if the trials' code was refactored later, [{from, to: fingerprints of the code, checked, of: trainings}]
    - declared: if looks, margins or levels were changed after trials had been judged: all declarations, oldest first
    - caches: list of {task, teacher, cache: its identity, data, weights, preprocessing, code: fingerprints}, and, if
      they exist, views and unlabelled: the identities of the caches of its views and of its unlabelled rows

    Args:
        root: the folder that holds `tasks/` and `logits/`.
        results: the results of `read_trials`.
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
        "tasks": {name: _task_facts(study, root, name) for name in study.tasks},
        **_adopted(results),
        **({"declared": study.declarations} if len(study.declarations) > 1 else {}),
        "caches": [_cache_facts(study, root, task, teacher) for task, teacher in study.taught()],
    }


def _adopted(results: Sequence[TrialResult]) -> dict[str, Any]:
    """What was checked if the code was refactored after trials had run; see `kdcache adopt`."""
    adopted = {result.adopted for result in results if result.adopted is not None}
    facts = [
        adoption.model_dump(by_alias=True)
        for adoption in sorted(adopted, key=lambda adoption: (adoption.before, adoption.after))
    ]
    return {"adopted": facts} if facts else {}


def _task_facts(study: Study, root: Path, task: str) -> dict[str, Any]:
    prepared = PreparedTask(root / "tasks" / task)
    card, metric = prepared.card, study.tasks[task].metrics[0]
    more = {} if card.unlabelled is None else {UNLABELLED: card.unlabelled.fingerprint}
    majority = always_the_same(prepared, metric)
    return {"rows": card.rows, "data": card.fingerprint, **more, "majority": majority}


def _cache_facts(study: Study, root: Path, task: str, teacher: str) -> dict[str, Any]:
    folder = root / "logits" / task / teacher
    cache = open_cache(folder)
    further_caches = {part: LogitCache(folder / part).identity for part in caches_beside(study.tasks[task])}
    prints = cache.manifest.fingerprints.model_dump()
    return {"task": task, "teacher": teacher, "cache": cache.identity, **further_caches, **prints}
