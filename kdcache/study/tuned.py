"""tuned.json: the values that stage `tune` chose for each configuration, and the study for which it chose them.

The file lies beside params.yaml and belongs in Git, like settle.json: both decide which trials there are. A choice
holds only for the study it was made for. After any change of params.yaml that could affect the choices, there are no
choices until `tune` has run again.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kdcache.hashing import fingerprint
from kdcache.study.beside import read_beside
from kdcache.study.schema import Choices, Study
from kdcache.system.files import write_json
from kdcache.system.names import TUNED

# The keys that a choice depends on; of `comparison` only the baseline, whose logits Self-KD learns from.
TUNED_ON = {"tasks", "teachers", "students", "regularizers", "distillers", "tuning"}


class Tuned(BaseModel):
    """The content of tuned.json.

    study: a hash of the parts of params.yaml that the choices depend on; empty if the study is not tuned.
    chosen: the values by task, student, method and key.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    study: str = ""
    chosen: dict[str, dict[str, dict[str, dict[str, int | float]]]] = Field(default_factory=dict)


def tuned_beside(params: Path) -> Path:
    """The path of the tuned.json that belongs to a study file."""
    return params.with_name(TUNED)


def asked_for(study: Study) -> str:
    """A hash of everything in params.yaml that a choice depends on."""
    without_keep = {"students": {"__all__": {"keep"}}}  # which trained models are kept changes no choice
    asked = study.model_dump(mode="json", include=TUNED_ON, exclude=without_keep)
    return fingerprint.of_json({**asked, "baseline": study.comparison.baseline})


def read_chosen(path: Path, study: Study) -> Choices:
    """The choices for this study; empty if tuned.json is missing or was written for another study.

    Raises:
        KdcacheError: the file is not as `write_tuned` writes it.
    """
    tuned = read_beside(path, Tuned, "dvc repro tune")
    if tuned.study != asked_for(study):
        return {}
    found = (
        (name, tuned.chosen.get(name[0], {}).get(name[1], {}).get(name[2])) for name in study.configurations()
    )
    return {name: setting for name, setting in found if setting is not None}


def write_tuned(path: Path, study: Study, choices: Choices) -> None:
    """Write tuned.json, with the choices in the study's order."""
    chosen: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for task, student, method in study.configurations():
        setting = dict(choices[task, student, method])
        chosen.setdefault(task, {}).setdefault(student, {})[method] = setting
    write_json(path, {"study": asked_for(study), "chosen": chosen})


def write_untuned(path: Path) -> None:
    """Write an empty tuned.json for a study without tuning: DVC needs the file, because stages depend on it."""
    write_json(path, Tuned().model_dump())
