"""From the file to a study: what the file may be, and every mistake of it at once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kdcache.errors import ParamsError
from kdcache.study import load_study
from tests.study.samples import ABSENT, STUDY, changed, mistakes_in, only_mistake, text_of, write

ROOT = Path(__file__).parents[2]
SHIPPED = ["params.yaml", *sorted(f"studies/{path.name}" for path in (ROOT / "studies").glob("*.yaml"))]


@pytest.mark.parametrize("path", SHIPPED)
def test_the_studies_that_are_shipped_are_correct(path: str) -> None:
    assert list(load_study(ROOT / path).configurations())


def test_reading_imports_no_heavy_library() -> None:
    code = (
        "import sys, kdcache.study.mistakes; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_a_number_needs_no_dot(tmp_path: Path) -> None:
    text = text_of(STUDY).replace("learning_rate: 0.001", "learning_rate: 5e-4")  # a text to YAML 1.1
    assert load_study(write(tmp_path, text)).students["small"].learning_rate == 5e-4


def test_the_words_of_yaml_1_1_are_texts(tmp_path: Path) -> None:
    task = {**STUDY["tasks"]["news"], "text": ["on"], "label": "y"}
    text = text_of(changed({"tasks.news": task}))
    assert "label: y\n" in text
    assert "- on\n" in text
    read = load_study(write(tmp_path, text)).tasks["news"]
    assert (read.text, read.label) == (["on"], "y")


def test_a_key_given_twice_is_not_silently_the_last_one(tmp_path: Path) -> None:
    text = text_of(STUDY).replace("  smooth:\n", "  base:\n    alpha: 0.3\n  smooth:\n")
    (mistake,) = mistakes_in(tmp_path, text)
    assert mistake.endswith("the key 'base' is given twice")
    assert mistake.startswith("line ")


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = text_of(changed({"students": ABSENT})) + (
        "students:\n"
        "  small: &m {tasks: [news], teacher: big, checkpoint: c,\n"
        "    learning_rate: 1, epochs: 1, batch_size: 1}\n"
        "  small-scratch: {<<: *m, init: scratch, epochs: 3}\n"
        "  smaller-scratch: {<<: *m, init: scratch, layers: 1}\n"
    )
    study = load_study(write(tmp_path, text))
    assert study.students["small-scratch"].epochs == 3
    assert study.students["smaller-scratch"].epochs == 1


def test_a_quoted_number_is_the_number(tmp_path: Path) -> None:
    quoted = load_study(
        write(tmp_path, changed({"regularizers.smooth.alpha": "0.1", "students.small.epochs": "2"}))
    )
    assert quoted == load_study(write(tmp_path, STUDY))


MISSING = [
    ({"distillers": ABSENT}, "distillers: missing; dvc.yaml reads it, so write `distillers: {}` for none"),
    ({"comparison.baseline": ABSENT}, "comparison.baseline: missing"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), MISSING, ids=[expected[:50] for _, expected in MISSING])
def test_what_dvc_yaml_reads_by_name_is_there(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert only_mistake(tmp_path, changes).startswith(expected)


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    found = mistakes_in(
        tmp_path,
        changed(
            {
                "seeds": [0, 0],
                "speed": 1,
                "tasks.news.metrics": ["accuracy", "accuracy"],
                "students.small.teacher": "huge",  # a mistake between entries, beside entries with their own
                "students.small.tasks": ["news", "rte"],
                "students.glance.epochs": 0,
                "regularizers.smooth": {"soft_labels": "designed", "multiplier": 3},
                "distillers.kd.soft_labels": "uniform",
                "comparison.baseline": "plain",
                "comparison.margin": {"macro_f1": 1.0},
            }
        ),
    )
    assert {line.split(": ")[0] for line in found} == {
        "seeds",
        "speed",
        "tasks.news",
        "students.small.teacher",
        "students.small.tasks",
        "students.glance.epochs",
        "regularizers.smooth",
        "distillers.kd.soft_labels",
        "comparison.baseline",
        "comparison.margin",
    }
    assert len(found) == len(set(found)) == 11  # the margin is missing for two tasks


def test_a_mistake_within_an_entry_hides_none_between_entries(tmp_path: Path) -> None:
    found = mistakes_in(
        tmp_path,
        changed(
            {
                "students.small.epoch": 3,
                "students.small.teacher": "huge",
                "students.glance.teacher": ABSENT,
                "distillers.kd.alpha": 0,
                "tasks.digits.max_length": 8,
                "comparison.alpha": 2,
                "comparison.margin": {"macro_f1": 1.0},
            }
        ),
    )
    assert sorted(line.split(": ")[0] for line in found) == [
        "comparison.alpha",
        "comparison.margin",  # of news
        "comparison.margin",  # of digits
        "distillers.kd",
        "students.glance.teacher",  # missing, though the distiller that needs it has a mistake
        "students.small.epoch",
        "students.small.teacher",
        "tasks.digits",
    ]


@pytest.mark.parametrize(
    ("path", "wrong"),
    [("students.small.teacher", 3), ("students.small.tasks", "news"), ("distillers.kd.soft_labels", "tutor")],
)
def test_a_faulty_value_is_not_reported_as_a_missing_one(tmp_path: Path, path: str, wrong: object) -> None:
    (mistake,) = mistakes_in(tmp_path, changed({path: wrong}))
    assert mistake.startswith(f"{path}: ")


def test_an_entry_with_a_mistake_still_exists_for_others(tmp_path: Path) -> None:
    # The teacher is faulty, not missing: only its own mistake is reported.
    (line,) = mistakes_in(tmp_path, changed({"teachers.big.epochs": 0}))
    assert line.startswith("teachers.big.epochs")


def _mappings(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _mappings(inner)


@pytest.mark.parametrize("path", ["studies/language-model.yaml", "studies/from-scratch.yaml"])
def test_whatever_key_is_wrong_the_mistakes_are_listed(tmp_path: Path, path: str) -> None:
    """Each key of a study misspelt, and each with a text as its value: the checks between entries must bear it."""
    study = YAML(typ="safe").load(ROOT / path)
    study["tuning"]["space"] = {"all": {"batch_size": [2, 4]}}
    for student in study["students"].values():
        student["accumulate"] = 2
    tried = 0
    for mapping in list(_mappings(study)):
        for key in list(mapping):
            for wrong in ({f"{key}_": mapping[key]}, {key: "two words"}):
                kept = dict(mapping)
                mapping.clear()
                mapping.update({other: value for other, value in kept.items() if other != key} | wrong)
                write(tmp_path, study)
                with contextlib.suppress(ParamsError):  # a name of the user's may be any
                    load_study(tmp_path / "params.yaml")
                mapping.clear()
                mapping.update(kept)
                tried += 1
    assert tried > 100


def test_the_message_counts_and_lists(tmp_path: Path) -> None:
    path = write(tmp_path, changed({"seeds": [], "zebra": 1}))
    with pytest.raises(ParamsError) as caught:
        load_study(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 2 mistakes"
    assert [line[:2] for line in lines[1:]] == ["  ", "  "]
