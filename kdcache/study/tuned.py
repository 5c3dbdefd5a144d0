"""tuned.json: the values that stage `tune` chose for configurations and teachers, and the study that it chose for.

The file lies beside params.yaml and belongs in Git, like settle.json: both decide which trials there are. A choice
holds only for the study it was made for. After any change of params.yaml that could affect the choices, there are no
choices until `tune` has run again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from kdcache.errors import KdcacheError
from kdcache.hashing import fingerprint
from kdcache.study.beside import read_beside
from kdcache.study.schema import Choices, Study, TeacherChoices
from kdcache.study.tuning import Setting, Values
from kdcache.system.files import write_json
from kdcache.system.names import TUNED

# The keys that a choice depends on; of `comparison` only the baseline, whose logits Self-KD learns from.
TUNED_ON = {"tasks", "teachers", "students", "regularizers", "distillers", "tuning"}
TEACHERS_TUNED_ON = {"tasks", "teachers", "tuning"}  # where no method is tuned


N = TypeVar("N", tuple[str, str], tuple[str, str, str])


class Tuned(BaseModel):
    """The content of tuned.json.

    study: a hash of the parts of params.yaml that the choices depend on; empty if the study is not tuned.
    chosen: the values by task, student, method and key.
    teachers: the values by task, teacher and key; empty where no teacher is tuned.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    study: str = ""
    chosen: dict[str, dict[str, dict[str, dict[str, int | float]]]] = Field(default_factory=dict)
    teachers: dict[str, dict[str, dict[str, int | float]]] = Field(default_factory=dict)


def tuned_beside(params: Path) -> Path:
    """The path of the tuned.json that belongs to a study file."""
    return params.with_name(TUNED)


def asked_for(study: Study) -> str:
    """A hash of everything in params.yaml that a choice depends on."""
    without_keep = {"students": {"__all__": {"keep"}}}  # which trained models are kept changes no choice
    teachers_alone = study.tuning is not None and not study.tuning.space
    keys = TEACHERS_TUNED_ON if teachers_alone else TUNED_ON
    asked = study.model_dump(mode="json", include=keys, exclude=without_keep)
    return fingerprint.of_json({**asked, "baseline": study.comparison.baseline})


def with_chosen(study: Study, path: Path) -> Study:
    """The study with the values chosen for it; as declared if tuned.json is missing, or is another study's.

    Raises:
        KdcacheError: the file is not as `write_tuned` writes it, or has a value that tuning may not try.
    """
    tuned = read_beside(path, Tuned, "dvc repro tune")
    if tuned.study != asked_for(study):
        return study
    methods = _given(
        (name, tuned.chosen.get(name[0], {}).get(name[1], {}).get(name[2])) for name in study.configurations()
    )
    teachers = _given((name, tuned.teachers.get(name[0], {}).get(name[1])) for name in study.taught())
    _check_space(path, study, methods, teachers)
    return study.with_chosen(methods, teachers)


def _check_space(path: Path, study: Study, methods: Choices, teachers: TeacherChoices) -> None:
    """Refuse a choice that is not in the space of params.yaml: somebody edited the file."""
    assert study.tuning is not None
    of_teachers: Values = study.tuning.teachers.values if study.tuning.teachers else {}
    chosen: list[tuple[str, Setting, Values]] = [
        *((f"chosen.{'.'.join(name)}", made, study.tuning.values(name[2])) for name, made in methods.items()),
        *((f"teachers.{'.'.join(name)}", made, of_teachers) for name, made in teachers.items()),
    ]
    for path_in_file, setting, space in chosen:
        for key, value in setting.items():
            if value not in space.get(key, ()):
                listed = f"tries {space[key]}" if key in space else "does not vary it"
                raise KdcacheError(
                    f"{path}: {path_in_file}.{key}: found {value:g}, but `tuning` of params.yaml {listed}; "
                    "delete the file and run `dvc repro tune`, which writes it anew"
                )


def _given(choices: Iterable[tuple[N, Setting | None]]) -> dict[N, Setting]:
    return {name: setting for name, setting in choices if setting is not None}


def write_tuned(path: Path, study: Study, choices: Choices, teachers: TeacherChoices) -> None:
    """Write the choices in the given order, which is the study's."""
    chosen: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for task, student, method in choices:
        setting = dict(choices[task, student, method])
        chosen.setdefault(task, {}).setdefault(student, {})[method] = setting
    taught: dict[str, dict[str, dict[str, float]]] = {}
    for task, teacher in teachers:
        taught.setdefault(task, {})[teacher] = dict(teachers[task, teacher])
    write_json(path, {"study": asked_for(study), "chosen": chosen, "teachers": taught})


def write_untuned(path: Path) -> None:
    """Write an empty tuned.json for a study without tuning: DVC needs the file, because stages depend on it."""
    write_json(path, Tuned().model_dump())
