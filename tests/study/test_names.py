"""What may be a name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from ruamel.yaml import YAML

from kdcache.study import load_study
from tests.study.samples import STUDY, changed, only_mistake, write

ONE = [
    ({"tasks.a b": STUDY["tasks"]["news"]},
     "tasks.a b: a name has letters, digits, '-' and '_' only, found 'a b'"),
    ({"students.-x": STUDY["students"]["small"]}, "students.-x: a name has letters"),
    ({"regularizers": {"base": {}, "": {}}}, "regularizers.: a name has letters"),
    ({"regularizers": {"base": {}, 3: {}}},
     "regularizers.3: a name is text, found 3; begin it with a letter"),
    ({"tasks.news.source": {"files": {"train": "a.csv", "validation": "b.csv", "hard ones": "c.csv"}}},
     "tasks.news.source.files.hard ones: a name has letters, digits, '-' and '_' only, found 'hard ones'"),
    ({"students.small.teacher": []},
     "students.small.teacher: expected a teacher or a list of different teachers, found []"),
    ({"students.small.teacher": ["big", "big"]},
     "students.small.teacher: expected a teacher or a list of different teachers, found ['big', 'big']"),
    ({"students.small.teacher": ["big", 3]},
     "students.small.teacher: a name is text, found 3; begin it with a letter"),
    ({"distillers.kd.teacher": []},
     "distillers.kd.teacher: expected a teacher or a list of different teachers, found []"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), ONE, ids=[expected[:50] for _, expected in ONE])
def test_what_is_no_name_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert only_mistake(tmp_path, changes).startswith(expected)


MISREAD = {
    "true or false": ["true", "False", "yes", "NO", "on", "off", "y", "N"],
    "a missing value": ["null", "None", "nil", "NA", "nan"],
    "a date": ["2024-01-31", "2024-13-45", "2024-1-1"],
    "a number": ["3", "007", "1_000", "1e3", "1E-3", "0x10", "0o7", "0b1", "inf", "Infinity"],
}
SOUND = [
    "bert-3",
    "3layer",
    "1e",
    "e3",
    "x1e3",
    "none-1",
    "no-kd",
    "2024-01",
    "on_policy",
    "0xyz",
    "nan-teacher",
]


@pytest.mark.parametrize(
    ("name", "meaning"), [(name, what) for what, names in MISREAD.items() for name in names]
)
def test_a_name_that_some_reader_takes_for_something_else_is_refused_in_quotes_too(
    tmp_path: Path, name: str, meaning: str
) -> None:
    # A YAML 1.1 reader and pandas are two such readers; what they make of it is never the name.
    assert only_mistake(
        tmp_path, {"regularizers": {"base": {}, name: {"soft_labels": "uniform", "alpha": 0.1}}}
    ) == (
        f"regularizers.{name}: found {name!r}, {meaning} to some readers of YAML or CSV; rename it, quotes do not help"
    )


@pytest.mark.parametrize("name", SOUND)
def test_a_name_that_every_reader_takes_for_text_is_one(tmp_path: Path, name: str) -> None:
    text = f"name\n{name}\nother\n"
    for read in (yaml.safe_load, YAML(typ="safe").load):
        assert read(f"{name}: 1") == {name: 1}
    assert list(pd.read_csv(io.StringIO(text))["name"]) == [name, "other"]
    smooth = {"soft_labels": "uniform", "alpha": 0.1}
    path = write(tmp_path, changed({"regularizers": {"base": {}, name: smooth}}))
    assert name in load_study(path).regularizers


def test_a_name_is_not_longer_than_a_file_system_takes(tmp_path: Path) -> None:
    long = {"base": {}, "x" * 101: {"soft_labels": "uniform", "alpha": 0.1}}
    assert "a name has at most 100 characters, found 101: 'xxx" in only_mistake(
        tmp_path, {"regularizers": long}
    )
