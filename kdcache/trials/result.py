"""result.json: what a trial was and what came out; cost.json beside it: what it took.

A result holds nothing that differs when the same trial runs again on such a machine: no time, no memory, no path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdcache.errors import KdcacheError, TrialError
from kdcache.study import Model
from kdcache.system.files import read_json, write_json
from kdcache.system.versions import ADAPTERS, LEARNING, installed
from kdcache.trials.layout import COST, RESULT

OPTIONAL = ("parts", "adopted", "metrics", "seconds", "peak_memory_mb")


class Adopted(BaseModel):
    """The code of a result was refactored, and proved to compute the same: see `kdcache.trials.adopt`.

    `from` and `to` are the code's fingerprints; `checked` of `of` finished trainings were run again and compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    before: str = Field(alias="from")
    after: str = Field(alias="to")
    checked: int
    of: int


class TrialResult(BaseModel):
    """`result.json`: what was run and what came out. The scores follow from the logits beside it.

    `commit` is what a hub checkpoint's revision stood for, `start` the content that the trial began with, `parts` what
    `identity` is the hash of. Results of kdcache 0.1 have no parts, but their scores (fractions, 0..1) and cost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str
    parts: dict[str, Any] | None = None
    adopted: Adopted | None = None
    task: str
    student: str
    family: str
    init: str
    checkpoint: str
    commit: str | None = None
    start: str | None = None
    layers: int | None
    teacher: str | None
    regularizer: str
    seed: int
    params: dict[str, Any]
    steps: int
    losses: list[float]
    device: str
    precision: str
    versions: dict[str, str]

    metrics: dict[str, float] | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None


class TrialCost(BaseModel):
    """`cost.json`: wall-clock seconds of training, peak MiB, and the device."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seconds: float
    peak_memory_mb: float
    device: str


def read_result(folder: Path) -> TrialResult | None:
    """The result in a trial's folder; None when the trial is not finished.

    Raises:
        TrialError: result.json is there but is no result of this version.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return TrialResult.model_validate(read_json(path))
    except KdcacheError as error:
        raise TrialError(f"{error} (a trial's result; delete {folder} to run the trial again)") from None
    except ValidationError as error:
        wrong = ", ".join(sorted({".".join(map(str, item["loc"])) or "(all)" for item in error.errors()}))
        raise TrialError(
            f"{path}: not a trial's result, see {wrong}; delete {folder} to run it again"
        ) from None


def finished_result(folder: Path) -> TrialResult:
    """The result of a trial that is known to be finished.

    Raises:
        TrialError: it is not.
    """
    result = read_result(folder)
    if result is None:
        raise TrialError(
            f"{folder}: there is no {RESULT}, so this trial is not finished; `dvc repro` runs it"
        )
    return result


def write_result(folder: Path, result: TrialResult) -> None:
    """Write result.json, atomically; from here on the trial is finished."""
    absent = {name for name in OPTIONAL if getattr(result, name) is None}
    write_json(folder / RESULT, result.model_dump(exclude=absent, by_alias=True))


def read_cost(folder: Path) -> TrialCost | None:
    """What a trial or a teacher took; None when that is not known here: DVC does not keep it."""
    try:
        return TrialCost.model_validate(read_json(folder / COST))
    except (KdcacheError, ValidationError):
        return None


def learned_with(model: Model) -> dict[str, str]:
    """The versions of the libraries that a trained model depends on."""
    return installed(LEARNING if model.lora is None else (*LEARNING, ADAPTERS))


def write_cost(folder: Path, cost: TrialCost) -> None:
    """Write cost.json, atomically."""
    write_json(folder / COST, cost.model_dump())
