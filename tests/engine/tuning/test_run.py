"""Tuning end to end: what it finds, what it reads, and that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kdcache.engine.tuning.holding_out import held_out_rows
from kdcache.engine.tuning.run import Tuned, tune
from kdcache.errors import TrialError
from kdcache.logits import LogitCache, LogitWriter
from kdcache.repro.progress import CHOSEN
from kdcache.study import load_study
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.layout import Layout
from kdcache.trials.missing import teacher_to_train, trials_to_run
from kdcache.trials.plan import Planner
from stages import prepare
from stages import tune as stage
from tests.engine.tuning.project import LABELS, TUNING, results, tuned, write_project, write_rows, write_study

ROOT = Path(__file__).parents[3]
OTHER = {"no": "yes", "yes": "no"}
SMOOTH = {"base": {}, "smooth": {"soft_labels": "uniform", "alpha": 0.1}}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDCACHE_WORKERS", "1")
    monkeypatch.setenv("KDCACHE_STORE", "off")


def tried(found: dict[str, Tuned], method: str) -> list[tuple[float, ...]]:
    return [one.scores for one in found[method].tried]


def make_up_logits() -> None:
    """A teacher on the task that is tuned on which is sure of the class that each train row's words are of."""
    folder, task = Path("data/tuning/logits/words/big"), PreparedTask(Path("data/tuning/tasks/words"))
    kept = LogitCache(folder).manifest
    what = {"classes": 2, "label_names": kept.label_names, "fingerprints": kept.fingerprints}
    with LogitWriter(folder, **what) as writer:
        for split in ("train", "validation"):
            rows = task.rows(split).to_pydict()
            of = [says(text) for text in rows["text"]]
            logits = np.array([[9.0, -9.0] if one == "no" else [-9.0, 9.0] for one in of], dtype=np.float32)
            ids, hashes = np.array(rows["id"]), np.array(rows["row_hash"], dtype=np.uint64)
            writer.write(split, ids, hashes, logits)
        writer.finish()


def says(text: str) -> str:
    return "no" if text.split()[0] in ("cat", "dog", "bird", "mat") else "yes"


def test_the_best_alpha_is_found_and_nothing_else_changes() -> None:
    """Every train row that is learned from has the wrong label, held-out rows the right one; the teacher is right.

    So the more a student believes the teacher, the better it is: alpha 1 is best by construction, and what learns from
    the labels is wrong everywhere.
    """
    held = set(held_out_rows(np.array(LABELS), 0.25, 0, False).tolist())
    said = [label if row in held else OTHER[label] for row, label in enumerate(LABELS)]
    study = write_project(LABELS, said)
    before = tuned(study), results()
    make_up_logits()
    after = tuned(study), results()
    assert after[0]["kd"].setting == {"alpha": 1.0}
    assert tried(after[0], "kd") == [(0.0,), (1.0,)]
    assert after[0]["base"] == before[0]["base"]
    changed = {path for path in after[1] if after[1][path] != before[1].get(path)}
    assert changed == {path for path in after[1] if "/kd/" in path}


def test_a_wrong_validation_changes_nothing_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    study = write_project()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.tune"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while not results():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = results()
    assert 0 < len(there) < 4  # else it was not stopped in the middle
    assert not Path("tuned.json").exists()
    stage.main([])
    whole, choice = results(), Path("tuned.json").read_bytes()
    assert {path: whole[path] for path in there} == there  # none was run twice
    assert len(whole) == 4
    table = Path("metrics/tuning.csv").read_text()

    write_rows(Path("validation.csv"), LABELS[:8], [OTHER[one] for one in LABELS[:8]])
    prepare.main(["--task", "words"])
    stage.main([])
    assert results() == whole  # nothing was run again
    assert (Path("tuned.json").read_bytes(), Path("metrics/tuning.csv").read_text()) == (choice, table)

    uninterrupted = tmp_path / "uninterrupted"
    Path("data/tuning").rename(uninterrupted)
    assert tuned(study)["kd"].setting == load_study()._chosen["words", "small", "kd"]
    again = {path: identity for path, (_, identity) in results().items()}
    assert again == {path: identity for path, (_, identity) in whole.items()}

    without = {key: value for key, value in TUNING.items() if key != "space"}
    smaller = {"base": {"epochs": [1, 8]}, "kd": {"alpha": [0.1, 0.5]}}
    tuned(write_study(tuning={**without, "space": smaller}))
    new = results()
    assert len(new) == 4  # what is no longer in the space is gone, and only what is new in it was run
    assert len(set(new) & set(again)) == 3


def test_a_choice_changes_its_own_method_alone_and_none_where_it_is_what_was_declared() -> None:
    plain = write_project(regularizers=SMOOTH, distillers={}, tuning=None)
    values = {"base": {"epochs": [8, 1]}, "smooth": {"alpha": [0.1, 0.3]}}
    study = write_study(regularizers=SMOOTH, distillers={}, tuning={**TUNING, "space": values})

    def identities(epochs: int | None, alpha: float | None) -> list[str]:
        chosen = {
            ("words", "small", "base"): {"epochs": epochs},
            ("words", "small", "smooth"): {"alpha": alpha},
        }
        planned = plain if epochs is None else study.with_chosen(chosen)
        planner = Planner(planned, Layout())
        return [plan.identity for name in planned.configurations() for plan in planner.trials(*name)]

    declared = identities(None, None)
    assert identities(8, 0.1) == declared
    assert identities(8, 0.3)[0] == declared[0]
    assert identities(8, 0.3)[1] != declared[1]
    assert identities(1, 0.1)[0] != declared[0]
    assert identities(1, 0.1)[1] == declared[1]


def test_a_study_is_not_run_before_it_is_tuned() -> None:
    study = write_project()
    with pytest.raises(
        TrialError, match=r"tuned\.json: has no values for words / small / base .* run stage tune"
    ):
        trials_to_run(study, Layout(), "words", "small", "base")


def test_teachers_are_chosen_by_nll_on_the_held_out_rows_and_learned_from_as_chosen() -> None:
    """With one epoch a teacher knows nothing, with eight the words: the longer one has the lower nll."""
    teachers = {"teachers": {"epochs": [1, 8]}}
    study = write_project(tuning={**TUNING, **teachers, "metric": "accuracy"})
    with pytest.raises(TrialError, match=r"tuned\.json: has no values for teacher big on words as params"):
        teacher_to_train(study, Layout(), "words", "big")
    stage.main([])
    table = pd.read_csv("metrics/tuning.csv")
    of_teacher = table[table["role"] == "teacher"].set_index("values")
    assert list(table["role"]) == ["teacher"] * 2 + ["student"] * 4
    assert list(of_teacher["metric"]) == ["nll"] * 2
    assert len(results("teacher-trials")) == 2
    assert of_teacher["score"]["epochs 8"] < of_teacher["score"]["epochs 1"]
    assert list(of_teacher["chosen"]) == [False, True]
    assert json.loads(Path("tuned.json").read_text())["teachers"] == {"words": {"big": {"epochs": 8}}}
    learned_from = json.loads(Path("data/tuning/teachers/words/big/teacher.json").read_text())
    assert learned_from["params"]["epochs"] == 8

    study = load_study()
    assert study.teachers["big"].epochs == 1
    plan = teacher_to_train(study, Layout(), "words", "big")
    assert plan is not None
    assert plan.model.epochs == 8
    before = results("teacher-trials")
    stage.main([])
    assert results("teacher-trials") == before


def test_teachers_alone_are_tuned_where_methods_have_no_space(caplog: pytest.LogCaptureFixture) -> None:
    """No method is tried, so all are as declared, and a method's values change no choice."""
    caplog.set_level("INFO")
    alone = {**TUNING, "space": {}, "teachers": {"epochs": [1, 8]}}
    write_project(tuning=alone)
    stage.main([])
    table = pd.read_csv("metrics/tuning.csv")
    assert list(table["role"]) == ["teacher"] * 2
    (said,) = [message for message in caplog.messages if CHOSEN.fullmatch(message)]
    assert said.startswith("words / big / base: epochs 8 (nll ")
    assert results("trials") == {}
    assert not list(Path("data/tuning").glob("teachers/*/*"))
    written = json.loads(Path("tuned.json").read_text())
    assert (written["chosen"], written["teachers"]) == ({}, {"words": {"big": {"epochs": 8}}})
    study = load_study()
    assert study.is_chosen("words", "small", "kd")
    assert study.teacher("words", "big").epochs == 8

    kd = {"soft_labels": "teacher", "alpha": 0.25}
    assert write_study(tuning=alone, distillers={"kd": kd}).teacher("words", "big").epochs == 8
    assert write_study(tuning={**alone, "teachers": {"epochs": [1, 4]}}).teacher("words", "big").epochs == 1


def test_without_tuning_nothing_is_left_of_it() -> None:
    write_project(tuning=None)
    Path("data/tuning/trials").mkdir(parents=True)
    stage.main([])
    assert list(Path("data/tuning").iterdir()) == []
    assert load_study().is_chosen("words", "small", "base")
    header = "task,role,model,regularizer,setting,values,seed,metric,score,chosen\n"
    assert Path("metrics/tuning.csv").read_text() == header
    assert Path("tuned.json").exists()


def test_params_that_change_meanwhile_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdcache.engine.tuning import run

    study = write_project(distillers={}, tuning={**TUNING, "space": {"base": {"epochs": [1, 8]}}})
    write_study(distillers={}, tuning={**TUNING, "space": {"base": {"epochs": [2, 8]}}})
    monkeypatch.setattr(run.Trying, "scores", lambda self, name, settings: [[0.5]] * len(settings))
    with pytest.raises(TrialError, match="was changed while tune ran"):
        tuned(study)


def test_f1_of_three_classes_is_refused_before_anything_runs() -> None:
    labels = ["no", "yes", "so"] * 12
    write_project(labels, ["no", "yes", "no"] * 12, tuning={**TUNING, "metric": "f1"})
    with pytest.raises(TrialError, match="f1 is for two classes, task 'words' has 3; use macro_f1"):
        tune(load_study("params.yaml"))
    assert not list(Path("data").rglob("result.json"))
