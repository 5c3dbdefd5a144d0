"""cost.json: what computing a cache's logits took, beside its manifest.

The cost differs from run to run, so it is not part of the manifest: the same logits give the same files on any machine
at any speed. A cache without cost.json is complete. (Manifests of kdcache 0.1 have the cost inside.)
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from kdcache.errors import KdcacheError
from kdcache.logits.records import Cost
from kdcache.system.files import read_json, remove, write_json

COST = "cost.json"


def read_cost(folder: Path) -> Cost | None:
    """The cost beside a cache's manifest; None if the file is missing or unreadable."""
    try:
        return Cost.model_validate(read_json(folder / COST))
    except (KdcacheError, ValidationError):
        return None


def write_cost(folder: Path, cost: Cost | None) -> None:
    """Write cost.json atomically; with None, remove an older one.

    Raises:
        KdcacheError: it cannot be written.
    """
    if cost is None:
        remove(folder / COST)
    else:
        write_json(folder / COST, cost.model_dump())
