"""What looks were worth: the same trials judged as a fixed design, and a forecast of all seeds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kdcache.results.reading import read_metrics
from kdcache.results.writing import write_table
from kdcache.statistics import compare, tabulate_looks
from kdcache.study import load_study
from tests.statistics.helpers import make_study, make_trials
from tools import screenshots, settled, spread

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study() -> Any:
    return make_study(methods=["clear", "open"], seeds=range(20), looks=[4, 20], stop_hopeless=0)


@pytest.fixture
def metrics(study: Any) -> Any:
    rng = np.random.default_rng(0)
    base, noise = rng.normal(80, 1, 20), rng.permutation(np.repeat([-1.0, 1.0], 10))
    trials = make_trials(
        {
            ("news", "tiny", "base"): base.tolist(),
            ("news", "tiny", "clear"): (base + 9 + noise)[:4].tolist(),  # better at once
            ("news", "tiny", "open"): (base + noise).tolist(),  # equivalent, which four seeds do not show
        }
    )
    cost = pd.DataFrame({"kind": ["teacher", "trial", "trial", "trial"], "seconds": [99.0, 2.0, 4.0, 60.0]})
    provenance = {"devices": {"cuda, Tesla T4": 30, "cpu, bfloat16": 14}}
    looks = tabulate_looks(trials, study)
    return SimpleNamespace(trials=trials, cost=cost, looks=looks, provenance=provenance)


def test_three_designs(study: Any, metrics: Any, tmp_path: Path) -> None:
    path = tmp_path / "comparisons.csv"
    write_table(compare(metrics.trials, study), path)
    first, looks, everything = settled.lines(metrics, study, path)
    assert (first.trials, first.decided, first.comparisons) == (12, 1, 2)
    assert (looks.trials, looks.decided) == (44, 2)
    assert everything.trials == 60
    assert 1.5 < everything.decided <= 2
    text = settled.page(metrics, study, path)
    assert "| 4 seeds, fixed | 12 | 1.0 of 2 | 8.3 | 75.0 |" in text  # a trial takes 4 s: 3600 / 48
    assert (
        "trial took 4.0 s (median) on cuda, Tesla T4 and cpu, bfloat16;" in text
    )  # not the machine that writes
    assert "| looks, judged 2 of 2 | 44 | 2.0 of 2 | 4.5 | 40.9 |" in text


def test_the_committed_page_is_that_of_the_committed_metrics() -> None:
    metrics, study = read_metrics(ROOT / "metrics"), load_study(ROOT / "params.yaml")
    text = settled.page(metrics, study, ROOT / "metrics/comparisons.csv")
    assert (ROOT / settled.PAGE).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("tool", [settled, spread, screenshots])
def test_a_study_that_is_not_there_is_one_message(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        tool.main([])
    assert capsys.readouterr().err.startswith("error: ")
