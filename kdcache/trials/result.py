"""result.json: what a trial was and what came out."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kdcache.errors import KdcacheError, TrialError
from kdcache.system.files import read_json, write_json
from kdcache.trials.layout import RESULT


class TrialResult(BaseModel):
    """`result.json`: what was run, what came out and what it cost. Metrics are fractions, 0..1.

    `commit` is what a hub checkpoint's revision stood for, `start` the content that the trial began with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str
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
    metrics: dict[str, float]
    steps: int
    losses: list[float]
    seconds: float
    peak_memory_mb: float
    device: str
    precision: str
    versions: dict[str, str]


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


def write_result(folder: Path, result: TrialResult) -> None:
    """Write result.json, atomically; from here on the trial is finished."""
    write_json(folder / RESULT, result.model_dump())


LIBRARIES = ("torch", "transformers", "accelerate", "numpy")


@functools.cache  # each look-up parses a package's whole metadata, README and all
def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}
