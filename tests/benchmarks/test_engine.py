"""The engine's benchmark on a study of 20 trials, and on pipelines of two stages."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import engine
from kdcache.study import Study


def small() -> Study:
    return engine.make_study(tasks=1, pairs=1).model_copy(update={"seeds": [0, 1]})


def test_the_study_has_the_trials_that_the_page_speaks_of() -> None:
    study = engine.make_study(tasks=8, pairs=25)
    assert len(list(study.configurations())) * len(study.seeds) == 10_000


def test_a_study_goes_through_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = small()
    engine.lay_out(study)
    assert engine.plan_and_run(study) == {"ran": 20}
    assert engine.plan(study) == {"missing": 0}
    assert engine.compare(study) == {"comparisons": 8}  # 2 students x 4 regularizers beside the baseline
    assert engine.report(study)["page_megabytes"] > 0
    trials = pd.read_csv("metrics/trials.csv").set_index(["student", "regularizer", "seed"])
    assert trials.loc[("m0", "base", 0), "accuracy"] == pytest.approx(
        0.85, abs=0.07
    )  # 277 rows: 3 sd are 0.064


def test_dvc_runs_once_and_then_finds_nothing_to_do() -> None:
    found = engine.dvc(2)
    assert found["stages"] == 2
    assert all(found[turn]["cpu_seconds"] > 0 for turn in ("first", "again"))


def test_the_page_states_totals_and_whether_the_goal_is_met() -> None:
    step = {"what": "compare", "cpu_seconds": 50.0, "wall_seconds": 60.0, "peak_megabytes": 400}
    turns = {"cpu_seconds": 2.0, "wall_seconds": 3.0}
    run = {
        "study": {
            "trials": 10_000,
            "configurations": 2_000,
            "steps": {"compare": step, "report": {**step, "what": "report", "page_megabytes": 7.5}},
            "milliseconds_per_trial": 10.0,
            "idle_stage_cpu_seconds": 1.5,
        },
        "dvc": [{"stages": 100, "first": turns, "again": turns}],
        "machine": "a CPU, 1 thread(s)",
        "date": "2026-01-01",
        "versions": {"dvc": "3.67.1"},
    }
    page = engine.page(run)
    assert "| compare | 50 | 5.00 | 400 |" in page
    assert "Together this is 10.0 ms of CPU a trial; the goal of at most 20 ms is met" in page
    assert "| 100 | 2.0 | 3.0 | 2.0 | 3.0 | 20 |" in page
    run["study"]["milliseconds_per_trial"] = 21.0  # type: ignore[index]
    assert "the goal of at most 20 ms is missed" in engine.page(run)
