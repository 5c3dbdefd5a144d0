"""The engine's benchmark on a study of 20 trials, and on pipelines of two stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import engine
from kdcache.study import Study

ROOT = Path(__file__).parents[2]


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


def made_up_run() -> dict[str, Any]:
    step = {"what": "compare", "cpu_seconds": 50.0, "wall_seconds": 60.0, "peak_megabytes": 400}
    turns = {"cpu_seconds": 2.0, "wall_seconds": 3.0}
    made = {"machine": "a CPU, 1 thread(s)", "date": "2026-01-01", "versions": {"dvc": "3.67.1"}}
    return {
        "made": {"study": made, "dvc": made},
        "study": {
            "trials": 10_000,
            "configurations": 2_000,
            "steps": {"compare": step, "report": {**step, "what": "report", "page_megabytes": 7.5}},
            "milliseconds_per_trial": 10.0,
            "idle_stage_cpu_seconds": 1.5,
        },
        "dvc": [{"stages": 100, "first": turns, "again": turns}],
    }


def test_the_page_states_totals_and_whether_the_goal_is_met() -> None:
    run = made_up_run()
    page = engine.page(run)
    assert "| compare | 50 | 5.00 | 400 |" in page
    assert "Together this is 10.0 ms of CPU a trial; the goal of at most 20 ms is met" in page
    assert "| 100 | 2.0 | 3.0 | 2.0 | 3.0 | 20 |" in page
    assert page.endswith("\na CPU, 1 thread(s); 2026-01-01; dvc 3.67.1.\n")
    run["study"]["milliseconds_per_trial"] = 21.0
    assert "the goal of at most 20 ms is missed" in engine.page(run)


def test_the_committed_page_is_that_of_the_committed_numbers() -> None:
    run = json.loads((ROOT / engine.JSON).read_text())
    assert (ROOT / engine.PAGE).read_text() == engine.page(run)


NOW = {"machine": "another CPU, 1 thread(s)", "date": "2026-02-02", "versions": {"dvc": "4.0"}}
OLD_LINE, NEW_LINE = (
    "a CPU, 1 thread(s); 2026-01-01; dvc 3.67.1.",
    "another CPU, 1 thread(s); 2026-02-02; dvc 4.0.",
)


@pytest.mark.parametrize(
    ("only", "study_line", "dvc_line"),
    [(["--dvc-only", "--stages", "100"], OLD_LINE, NEW_LINE), (["--stages"], NEW_LINE, OLD_LINE)],
)
def test_a_part_that_stays_keeps_its_date_and_machine(
    only: list[str], study_line: str, dvc_line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, files = made_up_run(), ["--json", str(tmp_path / "e.json"), "--page", str(tmp_path / "e.md")]
    (tmp_path / "e.json").write_text(json.dumps(run))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(engine, "facts", lambda _: NOW)
    monkeypatch.setattr(engine, "measure_study", lambda *_: run["study"])
    monkeypatch.setattr(engine, "dvc", lambda _: run["dvc"][0])
    engine.main([*only, *files])
    last = (tmp_path / "e.md").read_text().splitlines()[-3:]
    assert last == [f"The study: {study_line}", "", f"DVC's own share: {dvc_line}"]


def test_only_a_whole_run_without_a_profile_is_committed() -> None:
    assert (engine._parse([]).json, engine._parse(["--dvc-only"]).page) == (engine.JSON, engine.PAGE)
    assert engine._parse(["--stages"]).json == engine.JSON
    for other in (["--tasks", "1"], ["--pairs", "1"], ["--stages", "2"], ["--profile"]):
        assert (engine._parse(other).json, engine._parse(other).page) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "--page", "engine.md"], "not kept in --json or --page"),
        (["--dvc-only", "--json", "none.json"], "none.json: has no part 'study', which the page needs"),
    ],
)
def test_what_would_fail_after_measuring_is_refused_before(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "dvc", None)  # nothing is measured
    monkeypatch.setattr(engine, "measure_study", None)
    with pytest.raises(SystemExit):
        engine.main(arguments)
    assert message in capsys.readouterr().err
