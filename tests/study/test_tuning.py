"""`tuning` of params.yaml: what may be declared, and every mistake in words; tuned.json beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import KdcacheError
from kdcache.study import load_study
from kdcache.study.tuned import write_tuned
from tests.study.samples import changed, only_mistake, write

TUNING: dict[str, Any] = {
    "seeds": [1000, 1001],
    "budget": 4,
    "space": {
        "all": {"learning_rate": [1e-4, 1e-3], "epochs": [4, 8]},
        "kd": {"epochs": [2], "alpha": [0.5, 1], "temperature": [1, 2, 4]},
    },
}


def tuning(**changes: Any) -> dict[str, Any]:
    return {"tuning": {**TUNING, **changes}}


def space(**methods: Any) -> dict[str, Any]:
    return tuning(space={**TUNING["space"], **methods})


def test_a_method_may_try_what_all_may_and_its_own(tmp_path: Path) -> None:
    found = load_study(write(tmp_path, changed(tuning()))).tuning
    assert found is not None
    assert found.values("base") == {"learning_rate": [1e-4, 1e-3], "epochs": [4, 8]}
    kd = {"learning_rate": [1e-4, 1e-3], "epochs": [2], "alpha": [0.5, 1.0], "temperature": [1.0, 2.0, 4.0]}
    assert found.values("kd") == kd
    assert (found.points("base"), found.points("kd")) == (4, 12)
    assert (found.hold_out, found.sampler, found.metric) == (0.2, "qmc", None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (tuning(seeds=[1, 5]), "tuning.seeds: 1 also in seeds"),
        (tuning(seeds=[5, 5]), "tuning: a seed is listed twice: 5, 5"),
        (
            {**tuning(space={"all": {"batch_size": [2, 8]}}, budget=2), "students.small.accumulate": 4},
            "tuning.space: batch_size 2 cannot be computed in as many parts as students.small.accumulate: 4",
        ),
        (
            {**tuning(teachers={"batch_size": [2, 8]}), "teachers.big.accumulate": 4},
            "tuning.teachers: batch_size 2 cannot be computed in as many parts as teachers.big.accumulate: 4",
        ),
        (tuning(hold_out=1), "tuning.hold_out: Input should be less than 1, found 1"),
        (tuning(sampler="random"), "tuning.sampler: Input should be 'qmc' or 'tpe', found 'random'"),
        (tuning(buget=4), "tuning.buget: unknown key; did you mean 'budget'?"),
        (space(kd={"alfa": [1]}), "tuning.space.kd.alfa: unknown key; did you mean 'alpha'?"),
        (space(kd={"alpha": [0.1, 2]}), "tuning.space.kd.alpha.1: Input should be less than or equal to 1, found 2"),
        (space(kd={"alpha": [0.1, 0.1]}), "tuning.space.kd: alpha lists a value twice: 0.1, 0.1"),
        (space(kd={"alpha": []}), "tuning.space.kd.alpha: expected at least 1, found 0"),
        (tuning(space={}), "tuning: tunes nothing; give it a space, of the methods, or teachers, or leave tuning out"),
        (tuning(teachers={}), "tuning.teachers: lists no value; give at least one key"),
        (tuning(teachers={"alpha": [1]}), "tuning.teachers.alpha: unknown key (there are: learning_rate, epochs,"),
        (tuning(teachers={"epochs": [2, 2]}), "tuning.teachers: epochs lists a value twice: 2, 2"),
        (space(kd2={"alpha": [1]}), "tuning.space: no method 'kd2' (there are: all, base, smooth, kd, self_kd)"),
        (space(all={"alpha": [0.1]}), "tuning: space.all: alpha belongs to a method, not to all; write it under"),
        (
            space(base={"alpha": [0.1]}),
            "tuning.space.base.alpha: 0.1 cannot be set in regularizers.base: without soft_labels or function, alpha",
        ),
        (
            space(smooth={"alpha": [0.1, 1]}),
            "tuning.space.smooth.alpha: 1 cannot be set in regularizers.smooth: with alpha: 1 and soft_labels: uniform",
        ),
        (
            space(smooth={"epochs": [4]}),
            "tuning.budget: 4, but regularizers.smooth has only 2 settings in its space (learning_rate, epochs), and "
            "every method is to have as many; add values, or write budget: 2",
        ),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert only_mistake(tmp_path, changes).startswith(said)


def test_a_metric_that_a_task_cannot_have(tmp_path: Path) -> None:
    tasks = {"tasks": {"news": changed({})["tasks"]["news"]}}
    of = {"students": "small", "teachers": "big"}
    small = {group: {name: changed({})[group][name]} for group, name in of.items()}
    mistake = only_mistake(tmp_path, {**tasks, **small, **tuning(metric="pearson")})
    assert mistake == "tuning.metric: 'pearson' is not defined for task 'news'"


def test_a_choice_counts_for_the_study_that_it_was_made_for(tmp_path: Path) -> None:
    path = write(tmp_path, changed(tuning()))
    study = load_study(path)
    assert not study.is_chosen("news", "small", "kd")
    choices = {
        name: {"epochs": 2, "alpha": 1.0} if name[2] == "kd" else {"epochs": 4, "learning_rate": 1e-3}
        for name in study.configurations()
    }
    choices["news", "small", "kd"] = {"epochs": 2, "learning_rate": 1e-3, "alpha": 1.0}
    write_tuned(tmp_path / "tuned.json", study, choices, {})
    student, method = load_study(path).as_tuned("news", "small", "kd")
    assert (student.epochs, student.learning_rate, method.alpha, method.temperature) == (2, 1e-3, 1.0, 2.0)
    assert load_study(path).as_tuned("news", "small", "base")[0].epochs == 4
    assert load_study(path).students["small"].epochs == 2

    write(tmp_path, changed({**tuning(), "seeds": [0, 1, 2], "comparison.alpha": 0.1}))
    assert load_study(path).is_chosen("news", "small", "kd")  # no choice depends on these
    write(tmp_path, changed({**tuning(), "students.small.epochs": 3}))
    assert not load_study(path).is_chosen("news", "small", "kd")
    write(tmp_path, changed({}))
    assert load_study(path).as_tuned("news", "small", "kd")[1].alpha == 0.5


def test_a_teacher_has_what_was_chosen_for_it(tmp_path: Path) -> None:
    path = write(tmp_path, changed(tuning(teachers={"epochs": [1, 9]})))
    study = load_study(path)
    assert not study.is_teacher_chosen("news", "big")
    choices = {name: {"learning_rate": 1e-4} for name in study.configurations()}
    write_tuned(tmp_path / "tuned.json", study, choices, {("news", "big"): {"epochs": 9}})
    study = load_study(path)
    assert study.is_teacher_chosen("news", "big")
    assert (study.teacher("news", "big").epochs, study.teachers["big"].epochs) == (9, 2)
    assert not study.is_teacher_chosen("images", "big")
    write(tmp_path, changed(tuning()))
    assert load_study(path).is_teacher_chosen("news", "big")  # none is tuned


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"study": 1}', '{"chosen": {"a": {"b": {"c": {"d": "x"}}}}}']
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, changed(tuning()))
    (tmp_path / "tuned.json").write_text(content)
    with pytest.raises(KdcacheError, match=r"tuned\.json"):
        load_study(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"epochs": 8', '"epochs": 0', r"chosen\.news\.small\.base\.epochs: found 0, but .* tries \[4, 8\]"),
        ('"epochs": 8', '"epochs": 8.5', r"base\.epochs: found 8\.5, but"),
        ('"epochs": 8', '"epoch": 8', r"base\.epoch: found 8, but .* does not vary it"),
        ('"epochs": 9', '"epochs": 10', r"teachers\.news\.big\.epochs: found 10, but .* tries \[1, 9\]"),
    ],
)
def test_a_value_that_tuning_does_not_try(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = write(tmp_path, changed(tuning(teachers={"epochs": [1, 9]})))
    study, tuned = load_study(path), tmp_path / "tuned.json"
    choices = {name: {"epochs": 2 if name[2] == "kd" else 8} for name in study.configurations()}
    write_tuned(tuned, study, choices, {("news", "big"): {"epochs": 9}})
    tuned.write_text(tuned.read_text().replace(old, new))
    with pytest.raises(KdcacheError, match=said):
        load_study(path)


def test_looks_and_choices_go_together(tmp_path: Path) -> None:
    """The study keeps its choices when settle.json gives it its seeds."""
    looks = {"seeds": 10, "comparison.looks": [5, 10]}
    path = write(tmp_path, changed({**tuning(), **looks}))
    study = load_study(path)
    choices = {name: {"epochs": 2 if name[2] == "kd" else 8} for name in study.configurations()}
    write_tuned(tmp_path / "tuned.json", study, choices, {})
    settled = {"declared": [], "seeds": {"news": {"small": {"kd": 10}}}}
    (tmp_path / "settle.json").write_text(json.dumps(settled))
    study = load_study(path)
    assert study.as_tuned("news", "small", "base")[0].epochs == 8
    assert len(study.seeds_of("news", "small", "kd")) == 10
