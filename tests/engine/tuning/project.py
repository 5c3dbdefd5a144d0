"""A project of seconds to tune: texts of four words in two classes, a teacher and a student of a few weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from kdcache.engine.tuning.run import Tuned, tune
from kdcache.study import Study, load_study
from stages import prepare
from tests.tiny_models import save_checkpoint

WORDS = {"no": ["cat", "dog", "bird", "mat"], "yes": ["red", "blue", "grey", "old"]}
RECIPE = {"learning_rate": 0.01, "epochs": 8, "batch_size": 8}
MODEL = {"checkpoint": "bert", "init": "scratch", "layers": 1, **RECIPE}
STUDY: dict[str, Any] = {
    "seeds": [0],
    "tasks": {
        "words": {
            "source": {"files": {"train": "train.csv", "validation": "validation.csv"}},
            "text": ["text"],
            "metrics": ["accuracy"],
            "max_length": 8,
        }
    },
    "teachers": {"big": {**MODEL, "epochs": 1}},
    "students": {"small": {**MODEL, "teacher": "big"}},
    "regularizers": {"base": {}},
    "distillers": {"kd": {"soft_labels": "teacher", "alpha": 0.3}},
    "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
}
TUNING: dict[str, Any] = {
    "hold_out": 0.25,
    "seeds": [1000],
    "budget": 2,
    "space": {"base": {"epochs": [1, 8]}, "kd": {"alpha": [0.1, 1.0]}},
}
LABELS = ["no", "yes"] * 20


def write_project(labels: list[str] = LABELS, said: list[str] | None = None, **changes: Any) -> Study:
    """The project's files in the current folder, and its prepared task.

    Args:
        labels: those of the train rows.
        said: the class whose words each train row has; default: that of its label.
        changes: replace top-level groups of the study.
    """
    save_checkpoint(Path("bert"), "bert")
    write_rows(Path("train.csv"), said or labels, labels)
    write_rows(Path("validation.csv"), LABELS[:8], LABELS[:8])
    study = write_study(**changes)
    prepare.main(["--task", "words"])
    return study


def write_study(**changes: Any) -> Study:
    Path("params.yaml").write_text(yaml.safe_dump({**STUDY, "tuning": TUNING, **changes}, sort_keys=False))
    return load_study()


def write_rows(path: Path, said: list[str], labels: list[str]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for index, (word, label) in enumerate(zip(said, labels, strict=True)):
            words = WORDS[word]
            rows.writerow([f"{words[index % 4]} the {words[index // 4 % 4]} on {words[index // 16]}", label])


def tuned(study: Study) -> dict[str, Tuned]:
    """The results of tuning the student, by method."""
    return {one.configuration[2]: one for one in tune(study) if not one.teacher}


def results(trials: str = "trials") -> dict[str, tuple[int, str]]:
    """For each existing trial of tuning its folder, when its result was written, and its identity."""
    found = Path("data/tuning", trials).glob("*/*/*/*/seed-*/result.json")
    return {
        str(path.parent): (path.stat().st_mtime_ns, json.loads(path.read_text())["identity"])
        for path in found
    }
