"""The answers of `kdcache adopt`, `kdcache store` and `kdcache student`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdcache.errors import TrialError
from kdcache.study import load_study
from kdcache.system.locks import exclusive
from kdcache.trials.layout import Layout
from kdcache.trials.plan import TrialPlan
from kdcache.trials.store import KINDS, Store, project_store


def adopt_results(params: Path, sample: int, seed: int) -> dict[str, Any]:
    """Run `kdcache.trials.adopt.adopt`. Return what it did, as one JSON-like object."""
    from kdcache import engine
    from kdcache.engine.tuning.finished import finished_by_tuning
    from kdcache.trials.adopt import adopt

    _log()
    engine.share_cores()
    study, layout = load_study(params), Layout()
    with exclusive(layout.tuning):
        tuned = finished_by_tuning(study)
        return asdict(adopt(study, layout, _run, sample, seed, project_store(), besides=tuned))


def handed_out(
    params: Path, configuration: tuple[str, str, str], seed: int | None, out: Path, onnx: bool
) -> dict[str, Any]:
    """Run `kdcache.trials.student.hand_out`. Return what it did, as one JSON-like object."""
    from kdcache.trials.student import hand_out

    _log()
    return {
        "out": str(out),
        **asdict(hand_out(load_study(params), Layout(), *configuration, seed, out, _run, onnx)),
    }


def _run(plans: Sequence[TrialPlan]) -> None:
    from kdcache import engine
    from kdcache.trials.run import run_trial

    engine.run_trials(plans, run_trial)


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def stored() -> dict[str, Any]:
    """The store's folder and limit, and for each kind the number of entries and their bytes."""
    store = _store()
    entries = store.entries()
    kinds = {kind: [entry for entry in entries if entry.kind == kind] for kind in KINDS}
    return {
        "folder": str(store.folder),
        "limit_bytes": store.limit,
        "kinds": {
            kind: {"entries": len(entries), "bytes": sum(entry.bytes for entry in entries)}
            for kind, entries in kinds.items()
        },
    }


def freed(gigabytes: float) -> dict[str, Any]:
    """Free the store down to a size. Return the number of removed entries, their bytes, and the bytes left."""
    store = _store()
    removed = store.free(int(gigabytes * 1e9))
    return {
        "entries": len(removed),
        "bytes": sum(entry.bytes for entry in removed),
        "left": sum(entry.bytes for entry in store.entries()),
    }


def _store() -> Store:
    store = project_store()
    if store is None:
        raise TrialError("KDCACHE_STORE is `off`: there is no store; unset it to have one")
    return store
