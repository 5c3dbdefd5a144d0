"""The compare stage: twelve whole files from results on disk, or one message and nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import stages.compare
from kdcache.errors import KdcacheError
from kdcache.results.evaluation import Outputs, bin_sureness
from kdcache.study import Study
from kdcache.trials.layout import Layout
from kdcache.trials.result import TrialResult
from tests.statistics.helpers import make_study, make_trials

CURVES = pd.DataFrame({"task": ["news"], "epoch": [1], "loss": [0.5]})
MADE = {"versions": {"torch": ["2"]}, "devices": {"cpu, float32": 6}, "tasks": {"news": {"majority": 0.5}}}
COSTS = pd.DataFrame({"kind": ["teacher"], "task": ["news"], "model": ["big"], "seconds": [12.0]})
TRIALS = make_trials({("news", "tiny", m): [80.0, 81.0, 82.5 + i] for i, m in enumerate(("base", "smooth"))})


class Evaluation:
    """20 rows of two classes; what is said of them depends on the regularizer alone."""

    def __init__(self, study: Study, root: Path, results: list[TrialResult]) -> None:
        self._seeds = tuple(study.seeds)

    def outputs(self, task: str, student: str, regularizer: str) -> Outputs:
        labels = np.arange(20) % 2
        right = np.random.default_rng(len(regularizer)).random((len(self._seeds), 20)) < 0.8
        return Outputs(self._seeds, labels, np.where(right, labels, 1 - labels))

    def scores(self, result: TrialResult) -> dict[str, float]:
        return {}

    def sureness(self, task: str, student: str, regularizer: str) -> np.ndarray:
        return bin_sureness(np.eye(2), np.array([0, 1]))


def test_writes_the_thirteen_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {
        "read_trials": [],
        "check_results": None,
        "provenance": MADE,
        "trials_table": TRIALS,
        "cost_table": COSTS,
        "curves_table": CURVES,
        "teachers_table": pd.DataFrame({"task": ["news"], "teacher": ["big"], "train": [99.5]}),
    }
    for name, value in made.items():
        monkeypatch.setattr(stages.compare, name, lambda *_, value=value: value)
    monkeypatch.setattr(stages.compare, "Evaluation", Evaluation)
    stages.compare.write_metrics(make_study(seeds=[0, 1, 2]), Layout(tmp_path), tmp_path / "metrics")
    written = sorted(path.name for path in (tmp_path / "metrics").iterdir())
    tables = (
        "across",
        "calibration",
        "comparisons",
        "cost",
        "curves",
        "examples",
        "looks",
        "reliability",
        "teachers",
        "trials",
    )
    summaries = ("provenance", "summary", "verdicts")
    assert written == sorted([*(f"{name}.csv" for name in tables), *(f"{name}.json" for name in summaries)])
    for name in ("comparisons.csv", "examples.csv"):
        table = pd.read_csv(tmp_path / "metrics" / name)
        assert table["regularizer"].tolist() == ["smooth"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "metrics" / "trials.csv"), TRIALS)
    verdicts = json.loads((tmp_path / "metrics" / "verdicts.json").read_text())
    # one point more at one of three seeds
    assert verdicts["gain"] == {"smooth": 0.333333}
    assert "pretrained student? Not settled. The only comparison is not shown" in capsys.readouterr().out


def test_an_error_is_one_message_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(study: object, trials: Path) -> list[TrialResult]:
        raise KdcacheError("3 trials are missing")

    monkeypatch.setattr(stages.compare, "load_study", lambda path: make_study())
    monkeypatch.setattr(stages.compare, "read_trials", missing)
    with pytest.raises(SystemExit) as stopped:
        stages.compare.main(["--out", str(tmp_path / "metrics")])
    assert stopped.value.code == 1
    assert "3 trials are missing" in capsys.readouterr().err
    assert not (tmp_path / "metrics").exists()


def test_trials_of_two_precisions_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    stages.compare.warn_of_mixture({"cpu, float32": 6})
    assert caplog.messages == []
    stages.compare.warn_of_mixture({"cpu, float32": 2, "cpu, bfloat16": 4})
    (said,) = caplog.messages
    assert "not all trials were computed alike (2 on cpu, float32; 4 on cpu, bfloat16)" in said
