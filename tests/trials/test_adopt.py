"""`adopt`: a refactoring that changed nothing keeps every result, one that changed a value keeps none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import TrialError
from kdcache.logits import LogitCache
from kdcache.study import Study
from kdcache.tasks.prepare import prepare_task
from kdcache.trials import code
from kdcache.trials import run as running
from kdcache.trials.adopt import adopt
from kdcache.trials.again import keep_student
from kdcache.trials.layout import Layout
from kdcache.trials.missing import cache_to_write, teacher_to_train, trials_to_run
from kdcache.trials.plan import TrialPlan
from kdcache.trials.result import read_result
from kdcache.trials.store import Store
from tests import tiny_models

RECIPE = {"init": "scratch", "learning_rate": 0.003, "epochs": 1, "batch_size": 64, "precision": "float32"}
METHODS = ("base", "smooth", "kd", "self_kd")


def study(root: Path, **changes: Any) -> Study:
    model = {**RECIPE, "checkpoint": str(root / "vit")}
    content = {
        "seeds": [0, 1],
        "tasks": {"digits": {"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy"]}},
        "teachers": {"big": model},
        "students": {"small": {**model, "teacher": "big"}},
        "regularizers": {"base": {}, "smooth": {"soft_labels": "uniform", "alpha": 0.1}},
        "distillers": {name: {"soft_labels": soft, "alpha": 0.5} for name, soft in SOFT.items()},
        "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
    }
    return Study.model_validate({**content, **changes})


SOFT = {"kd": "teacher", "self_kd": "self"}


def run_all(plans: Sequence[TrialPlan]) -> None:
    for plan in plans:
        running.run_trial(plan)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose study is done, as its stages leave it."""
    from kdcache.trials.cache import cache_logits
    from kdcache.trials.teach import teach

    root = tmp_path_factory.mktemp("finished")
    tiny_models.save_checkpoint(root / "vit", "vit")
    asked, layout = study(root), Layout(root)
    prepare_task(asked.tasks["digits"], layout.task("digits"), "digits")
    teacher = teacher_to_train(asked, layout, "digits", "big")
    assert teacher is not None
    teach(teacher)
    cache = cache_to_write(asked, layout, "digits", "big")
    assert cache is not None
    cache_logits(cache)
    for method in METHODS:
        run_all(trials_to_run(asked, layout, "digits", "small", method))
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "data", tmp_path / "data")
    return tmp_path


def refactored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the code had been written in another way."""
    inner = code.of_packages
    monkeypatch.setattr(code, "of_packages", lambda *names, **more: f"refactored {inner(*names, **more)}")


def left(asked: Study, project: Path) -> int:
    layout = Layout(project)
    trials = [trials_to_run(asked, layout, "digits", "small", method) for method in METHODS]
    models = [
        teacher_to_train(asked, layout, "digits", "big"),
        cache_to_write(asked, layout, "digits", "big"),
    ]
    return sum(map(len, trials)) + sum(one is not None for one in models)


def files(project: Path) -> dict[str, bytes]:
    found = (file for file in (project / "data").rglob("*") if file.is_file() and file.suffix != ".lock")
    return {str(file.relative_to(project)): file.read_bytes() for file in found}


def test_a_neutral_refactoring_keeps_every_result(
    finished: Path, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked, layout = study(finished), Layout(project)
    logits = LogitCache(layout.trial("digits", "small", "kd", 0) / "logits").split("validation").logits
    refactored(monkeypatch)
    ran: list[TrialPlan] = []

    def run(plans: Sequence[TrialPlan]) -> None:
        ran.extend(plans)
        run_all(plans)

    store = Store(tmp_path / "store", 10**9)
    adoption = adopt(asked, layout, run, sample=5, store=store)
    assert (adoption.checked, adoption.teachers, adoption.caches, adoption.trials) == (6, 1, 1, 8)
    assert {plan.regularizer for plan in ran} == set(METHODS)
    assert len(ran) == 5
    assert left(asked, project) == 0
    result = read_result(layout.trial("digits", "small", "kd", 0))
    assert result is not None
    assert result.adopted is not None
    assert (result.adopted.checked, result.adopted.of) == (6, 9)
    assert result.adopted.after == f"refactored {result.adopted.before}"
    assert '"from":' in (layout.trial("digits", "small", "kd", 0) / "result.json").read_text()
    after = LogitCache(layout.trial("digits", "small", "kd", 0) / "logits")
    assert (after.split("validation").logits == logits).all()
    assert after.manifest.fingerprints.weights == result.identity
    assert sorted(entry.kind for entry in store.entries()) == ["caches", "teachers", *["trials"] * 8]
    before = files(project)
    shutil.rmtree(layout.teacher("digits", "big"))
    shutil.rmtree(layout.cache("digits", "big"))
    assert teacher_to_train(asked, layout, "digits", "big", store) is None
    assert cache_to_write(asked, layout, "digits", "big", store) is None
    assert files(project) == before
    assert adopt(asked, layout, run).checked == 0  # a second time there is nothing to do


def test_a_kept_model_stays_under_the_new_identity(
    finished: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    students = {"small": {**RECIPE, "checkpoint": str(finished / "vit"), "teacher": "big", "keep": [0]}}
    asked, layout = study(finished, students=students), Layout(project)
    for plan in trials_to_run(asked, layout, "digits", "small", "kd"):
        keep_student(plan)
    model = layout.trial("digits", "small", "kd", 0) / "model"
    weights, card = (model / "model.safetensors").read_bytes(), (model / "README.md").read_text()
    before = json.loads((model / "student.json").read_text())["identity"]
    refactored(monkeypatch)
    ran: list[TrialPlan] = []
    adopt(asked, layout, lambda plans: (ran.extend(plans), run_all(plans))[1], sample=1)
    assert not any(plan.keep_model for plan in ran)  # what is only compared has no model
    assert trials_to_run(asked, layout, "digits", "small", "kd") == []
    assert (model / "model.safetensors").read_bytes() == weights
    after = json.loads((model / "student.json").read_text())["identity"]
    assert (model / "README.md").read_text() == card.replace(before, after)
    assert after in (model / "README.md").read_text()


def other_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdcache.training import loop

    inner = loop.Loop._mean_loss
    monkeypatch.setattr(loop.Loop, "_mean_loss", lambda self: inner(self) * (1 + 1e-15) + 1e-15)


def other_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = running.predict
    monkeypatch.setattr(running, "predict", lambda *args: inner(*args) + 1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            other_loss,
            r"teacher big: the code computes something else: the loss of epoch 1 was [\d.]+, it is now",
        ),
        (
            other_logits,
            r"seed \d: the code computes something else: .*logit \[\d+\] was .*, it is now .*nothing is stamped",
        ),
    ],
)
def test_a_changed_value_is_named_and_nothing_is_stamped(
    finished: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch], None],
    said: str,
) -> None:
    before = files(project)
    refactored(monkeypatch)
    change(monkeypatch)
    with pytest.raises(TrialError, match=said):
        adopt(study(finished), Layout(project), run_all, sample=4)
    assert files(project) == before


def test_only_the_code_may_differ(finished: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(project)
    refactored(monkeypatch)
    methods = {"base": {}, "smooth": {"soft_labels": "uniform", "alpha": 0.2}}
    with pytest.raises(
        TrialError, match=r"more than the code of .*smooth.* differs \(method: kept .*0\.1.*now .*0\.2"
    ):
        adopt(study(finished, regularizers=methods), Layout(project), run_all)
    monkeypatch.setattr("kdcache.trials.adopt.installed", lambda names: {"torch": "9.9"})
    with pytest.raises(TrialError, match=r"only the code may differ, but .* was made with .*'9\.9'"):
        adopt(study(finished), Layout(project), run_all)
    assert files(project) == before


def test_a_result_without_parts_is_refused(
    finished: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kdcache 0.1 did not say what an identity is made of."""
    path = Layout(project).trial("digits", "small", "kd", 1) / "result.json"
    content = json.loads(path.read_text())
    del content["parts"]
    path.write_text(json.dumps(content))
    refactored(monkeypatch)
    with pytest.raises(TrialError, match=r"was made by kdcache 0\.1"):
        adopt(study(finished), Layout(project), run_all)


def test_what_is_not_finished_is_left_alone(
    finished: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(Layout(project).trial("digits", "small", "kd", 1))
    refactored(monkeypatch)
    adoption = adopt(study(finished), Layout(project), run_all, sample=1)
    assert adoption.trials == 7
    assert left(study(finished), project) == 1
