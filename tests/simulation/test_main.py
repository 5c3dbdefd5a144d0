"""The simulation study: its scores have the truth they claim, its rates are right, its page is generated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import special

from kdcache.errors import KdcacheError
from simulation import __main__ as study
from simulation import page, questions
from simulation.montecarlo import Rate, rates
from simulation.results import Cell, Results, read, write
from simulation.scenarios import SCENARIOS, Scenario, _counted
from simulation.tables import TABLES

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "simulation/results/statistics.json"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_true_differences_are_the_effects(scenario: Scenario) -> None:
    effects = np.array([0.0, 0.0, 1.5, -4.0])
    scores = scenario.draw(np.random.default_rng(0), (8000, 1, 1, 4, 2), effects, 1.0)
    assert scores.shape == (8000, 1, 1, 4, 2)
    d = (scores[..., 1:, :] - scores[..., :1, :])[:, 0, 0].mean(axis=-1)
    error = d.std(axis=0, ddof=1) / np.sqrt(len(d))
    assert np.abs((d.mean(axis=0) - effects[1:]) / error).max() < 4


@pytest.mark.parametrize("scenario", SCENARIOS[:8], ids=lambda scenario: scenario.name)
def test_sd_multiplies_the_spread_only(scenario: Scenario) -> None:
    plain, wide = (
        scenario.draw(np.random.default_rng(0), (50, 2, 2, 5, 5), 0.0, sd) for sd in (1.0, questions.SCRATCH)
    )
    np.testing.assert_allclose(wide[:, :, 0] - 80, 3 * (plain[:, :, 0] - 80))
    np.testing.assert_array_equal(wide[:, :, 1], plain[:, :, 1])


def test_counted_scores_are_those_of_rows_drawn_one_by_one() -> None:
    level, difficulty, runs = 1.0, 3.0, 20_000
    rng = np.random.default_rng(1)
    fast = _counted("x", "", level, difficulty).draw(rng, (runs, 1, 1, 1, 1), 0.0, 1.0).ravel()
    places = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], [55, 56, 55, 56, 55])
    rows = level + difficulty * special.ndtri(places)
    noise = rng.normal(0, 0.1, (runs, 1))
    slow = 100 * (rng.random((runs, 277)) < special.expit(rows + noise)).mean(axis=1)
    assert fast.mean() == pytest.approx(slow.mean(), abs=4 * slow.std() * np.sqrt(2 / runs))
    assert fast.std() == pytest.approx(slow.std(), rel=4 / np.sqrt(runs))
    np.testing.assert_allclose(fast * 2.77, np.round(fast * 2.77), atol=1e-9)


def test_a_rate_and_its_error_by_hand() -> None:
    found = rates(lambda rng, n: {"a": np.resize([0.0, 1.0, np.nan, 0.0], n), "b": np.zeros(n)}, 8, "x")
    # 0 1 . 0 0 1 . 0: two of six; variance 6 (1/3)(2/3) / 5 = 4/15; its error sqrt(4/15 / 6)
    assert (found["a"].value, found["a"].error) == pytest.approx((1 / 3, (4 / 90) ** 0.5))
    assert found["a"].repetitions == 6
    assert found["b"] == Rate(0.0, 1 / 8, 8)


def test_equal_names_give_equal_numbers_whatever_the_number_of_chunks() -> None:
    def ask(rng: np.random.Generator, n: int) -> dict:
        return {"mean": rng.random(n)}

    assert rates(ask, 500, "a") == rates(ask, 500, "a")
    assert rates(ask, 500, "a")["mean"].value != rates(ask, 500, "b")["mean"].value
    assert rates(ask, 2500, "a")["mean"].repetitions == 2500
    assert rates(ask, 2500, "a")["mean"].value == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (questions.AT_MOST, 0.05, True),
        (questions.AT_MOST, 0.0529, True),  # error 0.001: within three
        (questions.AT_MOST, 0.0531, False),
        (questions.COVERED, 0.9349, False),  # no allowance
        (questions.COVERED, 0.965, True),
        (questions.COVERED, 0.9651, False),
    ],
)
def test_whether_a_goal_is_met(goal: questions.Goal, value: float, met: bool) -> None:
    assert goal.met(Rate(value, 0.001, 1000)) is met


def test_any_counts_families_not_comparisons() -> None:
    rejected = np.zeros((2, 2, 2, 3), dtype=bool)  # studies, tasks, students, regularizers
    rejected[0, 0, 0] = [True, True, False]
    rejected[0, 1, 1, 2] = True
    assert questions.any_of(rejected, 1).tolist() == [0.5, 0]  # 2 of 4 students
    assert questions.any_of(rejected, 2).tolist() == [1, 0]
    assert questions.any_of(rejected[:, :1], 2).tolist() == [1, 0]
    assert questions.any_of(rejected[:, 1:], 3).tolist() == [1, 0]
    assert questions.any_of(rejected[:, :, :, 0], 0).tolist() == [0.25, 0]


def test_normal_scores_keep_the_level() -> None:
    found = rates(questions.some_true("normal"), 2000, "test")["1 of 4 without effect"]
    assert found.value == pytest.approx(0.05, abs=5 * found.error)  # the last step of Holm: alpha itself
    at_margin = rates(questions.margin("normal"), 2000, "test")["3 sd, one at +, rest 0"]
    assert at_margin.value == pytest.approx(0.05, abs=5 * at_margin.error)


def test_a_quick_run_writes_results_page_and_figure(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(study, "QUICK", 20)
    paths = ["--results", str(tmp_path / "found.json"), "--page", str(tmp_path / "page.md")]
    study.main(["--quick", *paths])
    first = read(tmp_path / "found.json")
    assert {cell.table for cell in first.cells} == {table.name for table in TABLES}
    assert {cell.repetitions for cell in first.table("null")} == {20}
    text = (tmp_path / "page.md").read_text()
    assert all(f"## {table.title}" in text for table in TABLES)
    assert "percentages of 20 repetitions" in text
    assert (tmp_path / page.FIGURE).read_text().startswith("<svg")

    study.main(["--quick", "--only", "mixed", *paths])  # the rest stays, and equal seeds give equal numbers
    assert set(read(tmp_path / "found.json").cells) == set(first.cells)


@pytest.fixture
def instantly(monkeypatch: pytest.MonkeyPatch) -> Results:
    """The committed results; simulating a table gives its cells again, without any work."""
    results = read(COMMITTED)
    monkeypatch.setattr(study, "simulate", lambda table, _: (results.table(table.name), 1.0))
    return results


@pytest.mark.usefixtures("instantly")
def test_a_quick_run_keeps_nothing_unless_files_are_named(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    study.main(["--quick"])
    assert not list(tmp_path.iterdir())
    assert "# How often the verdicts are wrong" in capsys.readouterr().out
    named = study._parse([])
    assert (named.results, named.page) == (study.RESULTS, study.PAGE)


def test_tables_that_stay_keep_the_facts_of_their_own_run(instantly, tmp_path, monkeypatch) -> None:
    paths = ["--results", str(tmp_path / "found.json"), "--page", str(tmp_path / "page.md")]
    write(tmp_path / "found.json", instantly)
    monkeypatch.setattr(study, "machine", lambda _: "another CPU")
    study.main(["--only", "mixed", *paths])
    found = read(tmp_path / "found.json")
    assert found.facts_of("null") == instantly.facts
    assert found.facts_of("mixed")["machine"] == "another CPU"
    assert found.seconds == instantly.seconds | {"mixed": 1.0}
    text = (tmp_path / "page.md").read_text()
    assert f"- Both sorts of mistakes at once: {found.dates['mixed']}: 1 s of CPU on another CPU, " in text
    assert f"{instantly.facts['machine']}, numpy" in text

    study.main(paths)  # all tables again: they share one line
    assert set(map(str, read(tmp_path / "found.json").all_facts().values())) == {str(found.facts_of("mixed"))}
    assert f"{len(TABLES)} s of CPU on another CPU" in (tmp_path / "page.md").read_text()


def test_results_survive_the_file_and_a_broken_one_is_named(tmp_path) -> None:
    cell = Cell("null", "normal", "student: 4", 0.05, 0.001, 1000, True)
    results = Results({"seed": 1}, {"null": 1.5}, {"null": "2024-01-01"}, [cell])
    for one in (results, results.with_table("null", [cell], 2.5, "2024-01-02", {"seed": 2})):
        write(tmp_path / "a.json", one)
        assert read(tmp_path / "a.json") == one
    (tmp_path / "b.json").write_text('{"cells": [{}]}')
    for name in ("b.json", "none.json"):
        with pytest.raises(KdcacheError, match=name):
            read(tmp_path / name)


def test_a_missed_goal_is_marked() -> None:
    cell = Cell("null", "skewed", "student: 4", 0.0712, 0.0012, 1000, False)
    assert page._marked(cell) == "**7.1 (0.12) misses**"
    assert page._marked(Cell("null", "normal", "student: 4", 0.0459, 0.001, 1000, True)) == "4.6 (0.10)"
    narrow, wide = (Cell("coverage", "normal", "BCa, 5", rate, 0.001, 9, False) for rate in (0.83, 0.97))
    assert page._marked(narrow).endswith("narrow**")
    assert page._marked(wide).endswith("wide**")


def test_from_which_number_of_seeds_on() -> None:
    def cells(*shares: float) -> list[Cell]:
        return [
            Cell("coverage", "normal", f"BCa, {n}", share, 0.0, 9, 0.935 <= share <= 0.965)
            for n, share in zip(questions.SEEDS, shares, strict=True)
        ]

    assert page._enough(cells(0.95, 0.94, 0.95, 0.97, 0.95)) == "always"
    assert page._enough(cells(0.7, 0.94, 0.9, 0.94, 0.95)) == "from 20 seeds on"
    assert page._enough(cells(0.95, 0.95, 0.95, 0.95, 0.93)) == "not even at 40 seeds"


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    committed = (ROOT / "docs/measured/statistics-simulation.md").read_text(encoding="utf-8")
    assert committed == page.render(COMMITTED.name, read(COMMITTED))


def test_the_committed_results_are_whole() -> None:
    results = read(COMMITTED)
    for table in TABLES:
        cells = results.table(table.name)
        assert list(dict.fromkeys(cell.row for cell in cells)) == list(table.rows)
        assert min(table.repetitions for table in TABLES) >= 10_000
        assert all(cell.repetitions > 0.9 * table.repetitions for cell in cells)
        for cell in cells:
            goal = table.goal(cell.column)
            assert (goal is None) == (cell.met is None)


def test_what_the_page_says_in_words_is_in_the_committed_results() -> None:
    rate = {(cell.table, cell.row, cell.column): cell.rate for cell in read(COMMITTED).cells}
    for kind in ("skewed", "heavy tail", "collapses"):
        assert rate["null", kind, "student: 4"] < 0.04
    by_seeds = [rate["null_by_seeds", "skewed regularizers", f"{n} seeds"] for n in (5, 10, 20, 40)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    assert by_seeds[0] > 0.1
    assert by_seeds[-1] > 0.05
    for kind in ("277 rows", "277 rows, ceiling"):
        assert rate["null", kind, "student: 4"] <= 0.05
        assert 0.935 <= rate["coverage", kind, "paired t, 5"] <= 0.965
    assert rate["null", "normal", "student families, any of 16"] > 0.4
    assert rate["null", "normal", "study, 8 tasks: 64"] < 0.06
    assert all(rate["coverage", name, "BCa, 5"] < 0.9 for name in questions.NAMES)


def test_what_the_page_says_of_tasks_is_in_the_committed_results() -> None:
    cells = read(COMMITTED).cells
    rate = {(cell.table, cell.row, cell.column): cell.rate for cell in cells}
    ranks = [c for c in cells if c.table == "across" and c.column.startswith(("Friedman", "Wilcoxon"))]
    assert all(cell.met for cell in ranks)
    missed = {c.row for c in cells if c.column.startswith("permutation") and c.met is False}
    assert missed == {"skewed regularizers"}
    coverage = {key[1:]: value for key, value in rate.items() if key[0] == "across_coverage"}
    for row in questions.NAMES:
        assert 0.45 < rate["across_varied", row, "permutation, 8"] < 0.6
        assert all(0.905 < coverage[row, f"interquartile mean, {n}"] < 0.925 for n in (2, 4, 8))
        better = coverage[row, "improvement, 8"]
        assert better > 0.995 if row == "matched seeds" else 0.915 < better < 0.955
    assert coverage["unequal spread", "mixed model, 8"] < 0.85
