"""settle.json: how many seeds each configuration of a study with looks has, and what was declared when it was judged.

`kdcache settle` writes it, beside params.yaml; it belongs into Git, like dvc.lock. It says only which trials were worth
running: a verdict never depends on it, since `compare` judges the looks again from the trials.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from kdcache.study.beside import read_beside
from kdcache.study.schema import SeedCounts, Study
from kdcache.study.seeds import MOST_SEEDS
from kdcache.system.files import write_json
from kdcache.system.names import SETTLED

Count = Annotated[int, Field(ge=1, le=MOST_SEEDS)]


class Settled(BaseModel):
    """The content of settle.json.

    declared: `Study.declarations` when it was judged last.
    seeds: how many each configuration has.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    declared: list[dict[str, Any]] = Field(default_factory=list)
    seeds: dict[str, dict[str, dict[str, Count]]] = Field(default_factory=dict)


def settled_beside(params: Path) -> Path:
    """Where a study file's settle.json lies."""
    return params.with_name(SETTLED)


def read_settled(path: Path) -> Settled:
    """
    Raises:
        KdcacheError: the file is not what `write_settled` writes. There need not be one.
    """
    return read_beside(path, Settled, "kdcache settle")


def write_settled(path: Path, study: Study, counts: SeedCounts) -> None:
    """Every configuration of the study in its order, and by what it has been judged."""
    seeds: dict[str, dict[str, dict[str, int]]] = {}
    for task, student, method in study.configurations():
        seeds.setdefault(task, {}).setdefault(student, {})[method] = counts[task][student][method]
    write_json(path, {"declared": study.declarations, "seeds": seeds})


def ensure_settled(path: Path) -> None:
    """An empty file where there is none: DVC wants to find what stages depend on."""
    if not path.exists():
        write_json(path, Settled().model_dump())
