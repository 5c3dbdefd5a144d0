"""What tuning has finished is found without running anything, and `kdcache adopt` keeps it after a refactoring."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdcache.cli.keeping import adopt_results
from kdcache.engine.tuning.finished import finished_by_tuning
from kdcache.engine.tuning.run import tune
from kdcache.errors import TrialError
from kdcache.study import load_study
from kdcache.trials import code
from stages import cache, teach, train
from stages import tune as stage
from tests.engine.tuning.project import TUNING, results, write_project, write_study

BOTH = {**TUNING, "teachers": {"epochs": [1, 8]}}
DISTILLERS = {
    "kd": {"soft_labels": "teacher", "alpha": 0.3},
    "self_kd": {"soft_labels": "self", "alpha": 0.3},
}
SPACE = {"base": {"epochs": [1, 8]}, "kd": {"alpha": [0.1, 1.0]}, "self_kd": {"alpha": [0.1, 1.0]}}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDCACHE_WORKERS", "1")
    monkeypatch.setenv("KDCACHE_STORE", "off")


def refactored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the code had been written in another way."""
    inner = code.of_packages
    monkeypatch.setattr(code, "of_packages", lambda *names, **more: f"refactored {inner(*names, **more)}")


def counts() -> tuple[int, int, int]:
    finished = finished_by_tuning(load_study())
    return len(finished.teachers), len(finished.caches), len(finished.trials)


@pytest.mark.parametrize("sampler", ["qmc", "tpe"])
def test_all_that_was_tried_is_found_up_to_the_first_gap(sampler: str) -> None:
    space = {**SPACE, "kd": {"alpha": [0.1, 0.5, 1.0]}}  # more than the budget, so that settings are drawn
    tuning = {**BOTH, "space": space, "sampler": sampler, "seeds": [1000, 1001]}
    study = write_project(tuning=tuning, distillers=DISTILLERS)
    assert counts() == (0, 0, 0)  # there is no held-out task yet
    tune(study)
    assert counts() == (1, 1, 2 * 2 + 3 * 2 * 2)
    folders = sorted(Path(path) for path in results())
    last = [path for path in folders if path.parent.parent.name == "self_kd"][-1]
    shutil.rmtree(last)
    assert counts() == (1, 1, 2 * 2 + 3 * 2 * 2 - 1)
    shutil.rmtree(Path("data/tuning/teacher-trials/words/big"))
    assert counts() == (0, 0, 0)  # which teacher was chosen is not known


def test_a_study_that_tunes_nothing_has_none() -> None:
    write_project(tuning=None)
    stage.main([])
    assert counts() == (0, 0, 0)


def test_after_a_refactoring_tuning_runs_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    study = write_project(tuning={**BOTH, "space": SPACE}, distillers=DISTILLERS)
    stage.main([])
    teach.main(["--task", "words", "--teacher", "big"])
    cache.main(["--task", "words", "--teacher", "big"])
    for method in ("base", "kd", "self_kd"):
        train.main(["--task", "words", "--student", "small", "--regularizer", method])
    choice = Path("tuned.json").read_bytes()

    refactored(monkeypatch)
    done = adopt_results(Path("params.yaml"), sample=1, seed=0)
    # the study's 3 trials, tuning's 2 of the teacher and 6 of the student; each has a teacher and its logits
    assert (done["teachers"], done["caches"], done["trials"]) == (2, 2, 3 + 2 + 6)
    assert finished_by_tuning(study).trainings == 9
    stamped = {**results(), **results("teacher-trials")}
    assert len(stamped) == 8
    stage.main([])
    assert {**results(), **results("teacher-trials")} == stamped  # nothing was run again
    assert Path("tuned.json").read_bytes() == choice
    assert adopt_results(Path("params.yaml"), sample=1, seed=0)["checked"] == 0


def test_tuning_of_other_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings are the same; what else the student is trained with is not."""
    small = {"base": {"epochs": [1, 8]}, "kd": {"alpha": [0.1, 1.0]}}
    tune(write_project(tuning={**TUNING, "space": small}))
    refactored(monkeypatch)
    content = json.loads(
        json.dumps(load_study().students["small"].model_dump(mode="json", exclude_unset=True))
    )
    write_study(tuning={**TUNING, "space": small}, students={"small": {**content, "batch_size": 4}})
    before = results()
    with pytest.raises(TrialError, match=r"more than the code of .* differs"):
        adopt_results(Path("params.yaml"), sample=1, seed=0)
    assert results() == before
