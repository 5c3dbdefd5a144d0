"""settle.json: how many seeds each configuration of a study with looks has, and the declarations it was judged by.

`kdcache settle` writes it beside params.yaml; like dvc.lock, it belongs in Git. It only says which trials were worth
running. No verdict depends on it, since `compare` judges all looks again from the trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kdcache.study.beside import read_beside
from kdcache.study.schema import SeedCounts, Study
from kdcache.study.seeds import MOST_SEEDS, listed
from kdcache.system.files import write_json
from kdcache.system.names import SETTLED
from kdcache.system.quoting import quoted

Count = Annotated[int, Field(ge=1, le=MOST_SEEDS)]


class Settled(BaseModel):
    """The content of settle.json.

    declared: `Study.declarations` when the study was last judged.
    seeds: how many seeds each configuration has.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    declared: list[dict[str, Any]] = Field(default_factory=list)
    seeds: dict[str, dict[str, dict[str, Count]]] = Field(default_factory=dict)

    @field_validator("declared")
    @classmethod
    def _have_seeds(cls, declared: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for declaration in declared:
            seeds = listed(declaration.get("seeds", []))
            if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
                raise ValueError(f"the seeds of a declaration are no list of whole numbers: {quoted(seeds)}")
        return declared

    def about(self, seeds: Sequence[int]) -> Settled:
        """What the file says of a study with these seeds; nothing if it was judged on none of them.

        After `cp studies/another.yaml params.yaml` the file is the earlier study's. Without a common seed there is no
        common trial, so its counts and declarations are of no concern.
        """
        judged: list[Any] = [listed(declaration.get("seeds", [])) for declaration in self.declared]
        if judged and not any(set(seeds) & set(earlier_seeds) for earlier_seeds in judged):
            return Settled()
        return self


def settled_beside(params: Path) -> Path:
    """The path of the settle.json that belongs to a study file."""
    return params.with_name(SETTLED)


def read_settled(path: Path) -> Settled:
    """The content of settle.json; empty if there is no file.

    Raises:
        KdcacheError: the file is not as `write_settled` writes it.
    """
    return read_beside(path, Settled, "kdcache settle")


def write_settled(
    path: Path, study: Study, counts: SeedCounts, declared: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Write the number of seeds of every configuration, in the study's order.

    Args:
        declared: the declarations that trials were judged by; default: the study's, its present one the last.
    """
    seeds: dict[str, dict[str, dict[str, int]]] = {}
    for task, student, method in study.configurations():
        seeds.setdefault(task, {}).setdefault(student, {})[method] = counts[task][student][method]
    write_json(path, {"declared": study.declarations if declared is None else declared, "seeds": seeds})


def ensure_settled(path: Path) -> None:
    """Write an empty file if there is none: DVC needs the file, because stages depend on it."""
    if not path.exists():
        write_json(path, Settled().model_dump())
