"""result.json says what was run in a trial, and its result. cost.json beside it has time and memory.

A result holds nothing that differs if the same trial runs again on the same kind of machine: no time, memory or path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdcache.errors import KdcacheError, TrialError
from kdcache.study import Model
from kdcache.system.files import read_json, write_json
from kdcache.system.versions import ADAPTERS, LEARNING, installed
from kdcache.trials.layout import COST, RESULT, TEACHER

OPTIONAL = ("parts", "adopted", "likelihoods", "metrics", "seconds", "peak_memory_mb")


class Adopted(BaseModel):
    """Says that a result's code was refactored and proved to compute the same; see `kdcache.trials.adopt`.

    `from` and `to` are the code's fingerprints. `checked` of `of` finished trainings were run again and compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    before: str = Field(alias="from")
    after: str = Field(alias="to")
    checked: int
    of: int


class TrialResult(BaseModel):
    """The content of result.json: what was run, and its losses. The scores follow from the logits beside it.

    `commit` is the commit that a hub checkpoint's revision stood for. `start` is a fingerprint of what the model
    started from. `identity` is the hash of `parts`. `likelihoods` has the checksum of each split's likelihoods of a
    language model, so that those of another trial are noticed. Results of kdcache 0.1 have no parts; they have scores
    (`metrics`, fractions 0..1) and cost instead.
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
    likelihoods: dict[str, str] | None = None

    metrics: dict[str, float] | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None


class TeacherRecord(BaseModel):
    """The part of teacher.json that other stages read. Records of kdcache 0.1 have cost instead of parts."""

    model_config = ConfigDict(frozen=True, extra="allow")

    parts: dict[str, Any] | None = None
    family: str | None = None
    params: dict[str, Any] | None = None
    losses: list[float] = Field(default_factory=list)
    versions: dict[str, str] | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    device: str | None = None


class TrialCost(BaseModel):
    """The content of cost.json: wall-clock seconds of training, peak memory in MiB, and the device."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seconds: float
    peak_memory_mb: float
    device: str


def read_result(folder: Path) -> TrialResult | None:
    """The result in a trial's folder; None if the trial is not finished.

    Raises:
        TrialError: result.json exists but is not a result of this version.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    with _explained(path, "a trial's result", "run it again"):
        return TrialResult.model_validate(read_json(path))


def read_teacher(folder: Path) -> dict[str, Any]:
    """The content of a teacher.json, which is in a teacher's folder and beside its logits.

    Raises:
        TrialError: the file is missing, or not what stage teach writes.
    """
    path = folder / TEACHER
    with _explained(path, "a teacher's record", "make it again"):
        record = read_json(path)
        TeacherRecord.model_validate(record)
        return dict(record)


@contextmanager
def _explained(path: Path, name: str, purpose: str) -> Iterator[None]:
    """If a file cannot be read or has other content, say what the file is and what to do."""
    advice = f"delete {path.parent} to {purpose}"
    try:
        yield
    except KdcacheError as error:
        raise TrialError(f"{error} ({name}; {advice})") from None
    except ValidationError as error:
        wrong = sorted({".".join(map(str, item["loc"])) or "(all)" for item in error.errors()})
        raise TrialError(f"{path}: not {name}, see {', '.join(wrong)[:500]}; {advice}") from None


def finished_result(folder: Path) -> TrialResult:
    """The result of a trial that must be finished.

    Raises:
        TrialError: the trial is not finished.
    """
    result = read_result(folder)
    if result is None:
        raise TrialError(
            f"{folder}: there is no {RESULT}, so this trial is not finished; `dvc repro` runs it"
        )
    return result


def write_result(folder: Path, result: TrialResult) -> None:
    """Write result.json, atomically; this makes the trial finished."""
    absent = {name for name in OPTIONAL if getattr(result, name) is None}
    write_json(folder / RESULT, result.model_dump(exclude=absent, by_alias=True))


def read_cost(folder: Path) -> TrialCost | None:
    """The cost of a trial or a teacher; None if there is no cost.json here, because DVC does not keep it."""
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
