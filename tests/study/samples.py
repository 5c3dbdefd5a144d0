"""A correct study, and studies that differ from it in a few values."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kdcache.errors import ParamsError
from kdcache.study import load_study

MODEL = {"checkpoint": "data/models/m", "learning_rate": 1e-3, "epochs": 2, "batch_size": 8}
STUDY: dict[str, Any] = {
    "seeds": [0, 1],
    "tasks": {
        "news": {
            "source": {"builtin": "bbc_headlines"},
            "text": ["text"],
            "metrics": ["accuracy"],
            "max_length": 24,
        },
        "digits": {"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy", "macro_f1"]},
    },
    "teachers": {"big": {**MODEL, "tasks": ["news"]}, "eye": {**MODEL, "tasks": ["digits"]}},
    "students": {
        "small": {**MODEL, "tasks": ["news"], "teacher": "big"},
        "glance": {**MODEL, "tasks": ["digits"], "teacher": "eye", "init": "scratch"},
    },
    "regularizers": {"base": {}, "smooth": {"soft_labels": "uniform", "alpha": 0.1}},
    "distillers": {
        "kd": {"soft_labels": "teacher", "alpha": 0.5, "temperature": 2},
        "self_kd": {"soft_labels": "self", "alpha": 1.0, "temperature": 2},
    },
    "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
}
ABSENT = object()


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """STUDY with the values at dotted paths replaced, or removed when ABSENT."""
    study = copy.deepcopy(STUDY)
    for path, value in changes.items():
        *parents, last = path.split(".")
        at = study
        for key in parents:
            at = at[key]
        if value is ABSENT:
            del at[last]
        else:
            at[last] = value
    return study


def write(folder: Path, study: object) -> Path:
    path = folder / "params.yaml"
    path.write_text(study if isinstance(study, str) else text_of(study))
    return path


def text_of(study: object) -> str:
    """The study as YAML 1.2."""
    text = io.StringIO()
    YAML().dump(study, text)
    return text.getvalue()


def mistakes_in(folder: Path, study: object) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        load_study(write(folder, study))
    return caught.value.mistakes


def only_mistake(folder: Path, changes: dict[str, Any]) -> str:
    (mistake,) = mistakes_in(folder, changed(changes))
    return mistake


REGRESSION = {
    "source": {"files": {"train": "a.csv", "validation": "b.csv"}},
    "text": ["s1", "s2"],
    "metrics": ["pearson"],
    "max_length": 32,
}
DIGITS = STUDY["tasks"]["digits"]
WITH_UNLABELLED = {"files": {"train": "a.csv", "validation": "b.csv", "unlabelled": "c.csv"}}
ALL_UNLABELLED = {
    f"tasks.{name}": {**task, "train_size": 9, "unlabelled": "rest"} for name, task in STUDY["tasks"].items()
}
