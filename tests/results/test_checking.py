"""A result that is not what the study asks for is refused, and both values are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.errors import CacheError, ComparisonError, TrialError
from kdcache.logits import Fingerprints, LogitWriter
from kdcache.results.checking import check_results
from kdcache.results.gather import read_trials
from kdcache.study import Study
from kdcache.system.files import read_json, write_json
from kdcache.trials.layout import Layout
from kdcache.trials.plan import Planner
from tests.results.samples import MODEL, put_task, put_teacher, put_trial, study

DIGITS = {"builtin": "digits", "package": "scikit-learn 1.5"}
CHECKPOINT = Path(__file__).resolve().parents[2] / "data/models/vit-tiny"


def plain(value: Any) -> Any:
    """As a JSON file has it."""
    return json.loads(json.dumps(value.model_dump()))


def put_trials(layout: Layout, of: Study) -> None:
    for task, student, regularizer in of.configurations():
        for seed in of.seeds:
            params = {"student": plain(of.students[student]), "regularizer": plain(of.method(regularizer))}
            put_trial(layout.data, task, student, regularizer, seed, 0.9, params=params)
    put_teacher(layout.data)
    record = layout.cache("one", "big") / "teacher.json"
    write_json(record, {**read_json(record), "params": plain(of.teachers["big"])})


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    put_trials(Layout(tmp_path), study())
    return Layout(tmp_path)


def check(layout: Layout, of: Study) -> None:
    check_results(of, layout, read_trials(of, layout.data / "trials"))


def changed(**model: Any) -> dict[str, Any]:
    """The sample's students, the first with other parameters."""
    first = {**MODEL, "teacher": "big", "tasks": ["one"], **model}
    return {"small": first, "tiny": {**MODEL, "tasks": ["two"]}}


def test_results_of_the_study_are_taken(layout: Layout) -> None:
    check(layout, study())


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.2}, {"epochs": 2}, {"init": "scratch"}, {"warmup": 0.5}]
)
def test_a_student_s_parameter_that_was_changed_is_refused(layout: Layout, change: dict[str, Any]) -> None:
    ((name, value),) = change.items()
    before = plain(study().students["small"])[name]
    said = rf"one/small/base/seed-0: the student was trained with {name} {before}, params\.yaml says {value};"
    with pytest.raises(ComparisonError, match=said):
        check(layout, study(students=changed(**change)))


def test_a_method_s_parameter_that_was_changed_is_refused(tmp_path: Path) -> None:
    def smooth(alpha: float) -> Study:
        return study(regularizers={"base": {}, "smooth": {"soft_labels": "uniform", "alpha": alpha}})

    layout = Layout(tmp_path)
    put_trials(layout, smooth(0.1))
    check(layout, smooth(0.1))
    with pytest.raises(
        ComparisonError, match=r"smooth/seed-0: the method was trained with alpha 0\.1, .* says 0\.2"
    ):
        check(layout, smooth(0.2))


def test_a_teacher_s_parameter_that_was_changed_is_refused(layout: Layout) -> None:
    teachers = {"big": {**MODEL, "tasks": ["one"], "epochs": 9}}
    said = r"logits/one/big/teacher\.json: the teacher was trained with epochs 1, params\.yaml says 9"
    with pytest.raises(ComparisonError, match=said):
        check(layout, study(teachers=teachers))


def test_a_task_that_was_prepared_otherwise_is_refused(layout: Layout) -> None:
    """What of a task is compared is tested in tests/tasks/test_asked.py."""
    put_task(layout.data, source=DIGITS)
    check(layout, study())
    digits = {"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy"]}
    with pytest.raises(ComparisonError) as refused:
        check(layout, study(tasks={"one": {**digits, "metrics": ["macro_f1"]}, "two": digits}))
    said = str(refused.value)
    assert (
        "tasks/one/card.json: was prepared with metrics.0 'accuracy', params.yaml asks for 'macro_f1'" in said
    )
    assert "run `dvc repro --force prepare@one`, then `dvc repro`" in said


def test_a_key_that_is_written_only_where_it_is_given_is_compared_too(layout: Layout) -> None:
    path = layout.cache("one", "big") / "teacher.json"
    record = read_json(path)
    assert "accumulate" not in record["params"]
    asked = study(teachers={"big": {**MODEL, "tasks": ["one"], "gradient_checkpointing": True}})
    with pytest.raises(ComparisonError, match=r"trained with gradient_checkpointing False, .* says True"):
        check(layout, asked)
    write_json(path, {**record, "params": {**record["params"], "accumulate": 4}})
    with pytest.raises(ComparisonError, match=r"the teacher was trained with accumulate 4, .* says 1"):
        check(layout, study())


@pytest.mark.parametrize(
    "record", [[], 3, None, {"params": []}, {"parts": [1]}, {"losses": "x"}, {"versions": {"torch": 2}}]
)
def test_a_record_that_is_none_is_named(layout: Layout, record: Any) -> None:
    write_json(layout.cache("one", "big") / "teacher.json", record)
    with pytest.raises(TrialError, match=r"logits/one/big/teacher\.json: not a teacher's record, see"):
        check(layout, study())


def test_parameters_that_are_none_are_refused(layout: Layout) -> None:
    path = layout.trial("one", "small", "base", 0) / "result.json"
    write_json(path, {**read_json(path), "params": {"student": [1], "regularizer": {}}})
    with pytest.raises(ComparisonError, match=r"the student has no parameters but \[1\]; run `dvc repro`"):
        check(layout, study())


def test_logits_of_another_trial_are_refused(layout: Layout) -> None:
    first, second = (layout.trial("one", "small", "base", seed) for seed in (0, 1))
    for folder in (first, second):
        prints = Fingerprints(
            data="d", weights=read_json(folder / "result.json")["identity"], preprocessing="p", code="c"
        )
        with LogitWriter(folder / "logits", classes=2, label_names=["a", "b"], fingerprints=prints) as writer:
            writer.write(
                "validation", np.arange(2), np.arange(2, dtype=np.uint64), np.zeros((2, 2), np.float32)
            )
            writer.finish()
    check(layout, study())
    shutil.rmtree(second / "logits")
    shutil.copytree(first / "logits", second / "logits")
    with pytest.raises(
        CacheError, match="seed-1/logits: has the logits of another trial, one0, expected one1"
    ):
        check(layout, study())


def test_names_are_no_parameters(layout: Layout) -> None:
    """A checkpoint that was moved, a teacher of another name: what they stand for is in the identity."""
    check(layout, study(students=changed(checkpoint="models/elsewhere")))


def test_an_older_result_may_lack_a_parameter(layout: Layout) -> None:
    path = layout.trial("one", "small", "base", 0) / "result.json"
    result = read_json(path)
    del result["params"]["student"]["warmup"]
    write_json(path, result)
    check(layout, study())


def test_a_folder_that_was_copied_is_refused(layout: Layout) -> None:
    first, second = (layout.trial("one", "small", "base", seed) / "result.json" for seed in (0, 1))
    second.write_bytes(first.read_bytes())
    with pytest.raises(
        ComparisonError, match=r"seed-1: holds the result of another trial, one / small / base / 0;"
    ):
        check(layout, study())


def test_an_identity_that_is_no_longer_asked_for_is_refused(tmp_path: Path) -> None:
    """Checked only where the checkpoint is on this machine."""
    layout = Layout(tmp_path)
    here = {**MODEL, "checkpoint": str(CHECKPOINT), "init": "scratch", "tasks": ["two"]}
    of = study(seeds=[0], students={"small": {**MODEL, "teacher": "big", "tasks": ["one"]}, "tiny": here})
    put_trials(layout, of)
    put_task(layout.data, name="two", source=DIGITS)
    (plan,) = Planner(of, layout).trials("two", "tiny", "base")
    put_trial(layout.data, "two", "tiny", "base", 0, 0.9, identity=plan.identity)
    check(layout, of)
    put_trial(layout.data, "two", "tiny", "base", 0, 0.9, identity="another")
    said = rf"two/tiny/base/seed-0: two / tiny / base / seed 0 has the identity another, .* {plan.identity};"
    with pytest.raises(ComparisonError, match=said):
        check(layout, of)
