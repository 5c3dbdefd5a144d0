"""What a study with looks will probably take: given spreads, seen spreads, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.cli.planning.forecasts import describe_design
from kdcache.errors import KdcacheError
from kdcache.results.writing import write_table
from kdcache.statistics import compare
from kdcache.study import load_study
from tests.statistics.helpers import make_study, make_trials

LOOKS: dict[str, Any] = {"seeds": range(20), "looks": [5, 10, 20]}
PAIR = {"raw": ("t", "scratch"), "tiny": ("t", "pretrained")}


def test_the_least_and_the_most_without_assumptions(tmp_path: Path) -> None:
    study = make_study(students=PAIR, methods=["mild", "strong"], **LOOKS)
    design = describe_design(study, tmp_path / "none.csv", None, None)
    assert (design["looks"], design["shares"]) == ([5, 10, 20], [0.25, 0.25, 0.5])
    assert (design["least"], design["most"]) == (6 * 5, 6 * 20)
    assert design["forecasts"] == []


def test_given_spreads_and_effects(tmp_path: Path) -> None:
    study = make_study(students=PAIR, methods=["mild", "strong"], **LOOKS)
    sure, hard = describe_design(study, tmp_path / "none.csv", 0.5, [50.0, 0.9])["forecasts"]
    assert sure["assumed"] == "every true difference is 50 points, sd 0.5"
    assert (sure["low"], sure["likely"], sure["high"], sure["decided"], sure["better"]) == (30, 30, 30, 4, 4)
    assert 30 < hard["likely"] <= 120
    together = make_study(students=PAIR, methods=["mild", "strong"], family="study", **LOOKS)
    (case,) = describe_design(together, tmp_path / "none.csv", 0.5, [50.0])["forecasts"]
    assert case["likely"] == 30  # two baselines, though the four comparisons are one family
    assert hard["decided"] == pytest.approx(hard["better"] + hard["worse"] + hard["equivalent"])
    assert len(hard["odds"]) == hard["comparisons"] == 4
    names = [
        case["assumed"] for case in describe_design(study, tmp_path / "none.csv", 0.5, None)["forecasts"]
    ]
    assert [name.split("is ")[1].split()[0] for name in names] == ["0", "0.5", "1"]  # of the margin


def test_spreads_that_the_study_has_seen(tmp_path: Path) -> None:
    study = make_study(students=PAIR, methods=["mild"], **LOOKS)
    rng = np.random.default_rng(0)
    table = {
        cell: rng.normal(90 if cell[2] == "mild" else 80, 0.3, 5).tolist() for cell in study.configurations()
    }
    path = tmp_path / "comparisons.csv"
    write_table(compare(make_trials(table), study), path)
    (case,) = describe_design(study, path, None, None)["forecasts"]
    assert (case["likely"], case["better"]) == (20, 2)  # at the first look
    more = make_study(students=PAIR, methods=["mild", "new"], **LOOKS)  # whose spread nobody knows
    assert describe_design(more, path, None, None)["forecasts"] == []


def test_one_seed_has_no_forecast(tmp_path: Path) -> None:
    design = describe_design(make_study(seeds=[0]), tmp_path / "none.csv", None, None)
    assert (design["least"], design["most"], design["forecasts"]) == (2, 2, [])
    with pytest.raises(KdcacheError, match="--sd: one seed decides nothing"):
        describe_design(make_study(seeds=[0]), tmp_path / "none.csv", 0.9, None)


def test_effects_need_a_spread(tmp_path: Path) -> None:
    with pytest.raises(KdcacheError, match="--effects: give --sd too"):
        describe_design(make_study(), tmp_path / "none.csv", None, [0.5])


def test_effects_are_in_the_unit_of_the_study(tmp_path: Path) -> None:
    study = load_study(Path(__file__).parents[3] / "studies/language-model.yaml")
    (case,) = describe_design(study, tmp_path / "none.csv", 0.01, [0.02])["forecasts"]
    assert case["assumed"] == "every true difference is 0.02 nats, sd 0.01"
