"""The simulation of the row-by-row statistics: its studies, its two simpler ways, its page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kdcache.errors import KdcacheError
from simulation import rows

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "simulation/results/rows.json"


def test_the_sides_are_equally_good_and_the_preferences_have_their_sizes() -> None:
    rng = np.random.default_rng(0)
    pairs = [rows.study(rng, 0.5, 0.2, 0.3) for _ in range(400)]
    d = 100 * np.array([(a.mean(axis=1) - b.mean(axis=1)) for a, b in pairs])  # [studies, seeds]
    assert d.mean() == pytest.approx(0, abs=4 * d.std() / np.sqrt(d.size))
    assert pairs[0][0].shape == (rows.SEEDS, rows.ROWS)
    # a latent number has variance 1 + (0.5^2 + 0.2^2) / 4 + 0.3^2, and it has to be above -1
    right = np.mean([a.mean() + b.mean() for a, b in pairs]) / 2
    assert right == pytest.approx(stats.norm.cdf(1 / np.sqrt(1 + 0.29 / 4 + 0.09)), abs=0.01)


def test_the_pigeonhole_interval_is_that_of_redrawn_seeds_and_rows() -> None:
    rng = np.random.default_rng(1)
    a, b = rows.study(rng, 0.2, 0.5, 0.3)
    drawn = [(rng.integers(0, 5, 5), rng.integers(0, 277, 277)) for _ in range(200)]
    d = a.astype(float) - b
    slow = [d[np.ix_(seeds, places)].mean() for seeds, places in drawn]
    seeds = np.array([np.bincount(one, minlength=5) / 5 for one, _ in drawn])
    places = np.array([np.bincount(one, minlength=277) / 277 for _, one in drawn])
    assert rows.pigeonhole(a, b, seeds, places) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


def test_redrawn_shares_are_whole_draws() -> None:
    seeds, places = rows.redrawn(np.random.default_rng(2), 50)
    assert (seeds.shape, places.shape) == ((50, 5), (50, 277))
    for shares, n in ((seeds, 5), (places, 277)):
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        np.testing.assert_allclose(shares * n, np.round(shares * n), atol=1e-9)


def test_the_pooled_binomial_by_hand() -> None:
    assert rows.pooled_binomial(1, 4) == pytest.approx(2 * (1 + 5) / 32)
    assert rows.pooled_binomial(3, 3) == 1.0
    assert rows.pooled_binomial(0, 0) == 1.0


def test_without_any_preference_nothing_is_estimated_but_zero() -> None:
    right = np.ones((5, 277), dtype=bool)
    found = rows.answers(right, right, rows.redrawn(np.random.default_rng(3), 20))
    assert found["variance"] == found["variance_total"] == 0
    assert np.isnan(found["covered_total"])
    assert found["covered_pigeonhole"] == 1
    assert found["rejected_rows"] == 0


@pytest.mark.parametrize(
    ("column", "of_seed", "value", "known"),
    [
        ("row test", 0.0, 0.055, True),  # 0.05 and three errors of 0.002
        ("row test", 0.0, 0.057, False),
        ("row test", 0.5, 0.5, None),  # the models do differ
        ("total", 0.5, 0.934, False),
        ("rows", 0.0, 0.95, True),
        ("pigeonhole", 0.0, 0.8, None),
    ],
)
def test_whether_a_goal_is_met(column: str, of_seed: float, value: float, known: bool | None) -> None:
    mixture = {"of_seed": of_seed, rows.COLUMNS[column][0]: {"value": value, "error": 0.002}}
    assert rows.met(column, mixture) is known


def test_a_missed_goal_is_marked() -> None:
    def marked(column: str, value: float) -> str:
        found = {"value": value, "error": 0.002}
        return rows._marked(column, {"of_seed": 0.0, rows.COLUMNS[column][0]: found})

    assert marked("total", 0.98) == "**98.0 (0.20) wide**"
    assert marked("total", 0.9) == "**90.0 (0.20) narrow**"
    assert marked("row test", 0.06) == "**6.0 (0.20) misses**"
    assert marked("pigeonhole", 0.8) == "80.0 (0.20)"


def test_a_root_and_its_error_by_hand() -> None:
    assert rows._root({"value": 4.0, "error": 0.4}) == "2.000 (0.100)"  # d sqrt(v) = dv / (2 sqrt(v))
    assert rows._root({"value": 0.0, "error": 0.1}) == "0.000 (0.000)"


def test_a_quick_run_writes_results_and_page(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(rows, "QUICK", 3)
    paths = ["--results", str(tmp_path / "found.json"), "--page", str(tmp_path / "page.md")]
    rows.main(["--quick", *paths])
    first = (tmp_path / "page.md").read_text()
    assert "Each line has 3 made-up studies" in " ".join(first.split())
    assert all(
        f"| {rows._name(dict(zip(('of_seed', 'of_row', 'luck'), m, strict=True)))} |" in first
        for m in rows.MIXTURES
    )
    rows.main(["--page-only", *paths])
    assert (tmp_path / "page.md").read_text() == first
    with pytest.raises(KdcacheError, match=r"none\.json"):
        rows.read(tmp_path / "none.json")


def test_a_quick_run_keeps_nothing_unless_files_are_named(tmp_path, monkeypatch, capsys) -> None:
    found = rows.read(COMMITTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows, "simulate", lambda _: found)
    rows.main(["--quick"])
    assert not list(tmp_path.iterdir())
    assert "# How right the row-by-row statistics are" in capsys.readouterr().out
    rows.main([])
    assert json.loads((tmp_path / rows.RESULTS).read_text()) == found
    assert (tmp_path / rows.PAGE).is_file()


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    committed = (ROOT / "docs/measured/statistics-rows.md").read_text(encoding="utf-8")
    found = rows.read(COMMITTED)
    assert committed == rows.render(COMMITTED.name, found)
    assert found["studies"] >= 10_000
    assert [rows._name(mixture) for mixture in found["mixtures"]] == [
        "{:g}, {:g}, {:g}".format(*mixture) for mixture in rows.MIXTURES
    ]
