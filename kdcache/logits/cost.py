"""cost.json: what computing a cache's logits took, beside its manifest.

It differs from run to run, so it is no part of the manifest: the same logits are the same files, wherever and however
fast they were computed. A cache without it is complete. (Manifests of kdcache 0.1 have the cost inside.)
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from kdcache.errors import KdcacheError
from kdcache.logits.records import Cost
from kdcache.system.files import read_json, remove, write_json

COST = "cost.json"


def read_cost(folder: Path) -> Cost | None:
    """The cost beside a cache's manifest; None where there is none, or none that can be read."""
    try:
        return Cost.model_validate(read_json(folder / COST))
    except (KdcacheError, ValidationError):
        return None


def write_cost(folder: Path, cost: Cost | None) -> None:
    """Write cost.json, atomically; without a cost an older one goes.

    Raises:
        KdcacheError: it cannot be written.
    """
    if cost is None:
        remove(folder / COST)
    else:
        write_json(folder / COST, cost.model_dump())
