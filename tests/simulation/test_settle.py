"""The simulation of designs with looks: its scores have the truth they claim, and its page says what was counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulation import settle, settle_page
from simulation.montecarlo import Rate, rates
from simulation.results import read
from simulation.settle_questions import (
    FIXED,
    LOOKS,
    NAIVE,
    SCORES,
    Scores,
    covered,
    decided,
    questions,
    wrong,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/settle.json"


@pytest.mark.parametrize("scores", SCORES, ids=lambda scores: scores.name)
@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_scores_have_the_truth_that_is_asked_for(scores: Scores, effect: float) -> None:
    d = scores.draw(np.random.default_rng(0), (4000, 3, 20), effect)
    first = d[:, 0]  # the one that is in doubt
    assert first.mean() == pytest.approx(effect, abs=5 * first.std() / np.sqrt(first.size))
    assert d.shape == (4000, 3, 20)


def test_naive_spends_all_of_alpha_at_every_look() -> None:
    assert [NAIVE.nominal(look, 0.05, 2) for look in range(1, 5)] == [0.05] * 4


def test_a_fixed_design_is_wrong_as_often_as_it_says() -> None:
    found = rates(wrong(SCORES[0], 1), 2000, "a family of one")
    for n in FIXED:
        if n != 20:
            assert found[f"difference, fixed {n}"].value == pytest.approx(0.05, abs=0.02)
    assert found["difference, naive"].value > 0.1


def test_what_is_counted_adds_up() -> None:
    found = {name: rate.value for name, rate in rates(decided(1.2, 0.5), 100, "decided").items()}
    for name in settle_page.DESIGNS:
        parts = found[f"{name}, different"] + found[f"{name}, equivalent"]
        assert found[f"{name}, decided"] == pytest.approx(parts)
    assert found["fixed 20, trials"] == 100
    assert 25 <= found["split, trials"] <= 200
    covers = rates(covered(0.8, 0.5), 500, "covered")
    assert covers["repeated"].value > covers["plain"].value


def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [cell for cell in questions() if cell[0] == "decided"][:2]
    monkeypatch.setattr(settle, "questions", lambda: few)
    monkeypatch.setattr(settle_page, "render", lambda file, results: f"{file}: {len(results.cells)}\n")
    place = ["--results", str(tmp_path / "r.json"), "--page", str(tmp_path / "p.md"), "--repetitions", "20"]
    settle.main(place)
    first = read(tmp_path / "r.json").cells
    asked: list[str] = []
    monkeypatch.setattr(settle, "rates", lambda *arguments: asked.append("again"))
    settle.main(place)
    assert (asked, read(tmp_path / "r.json").cells) == ([], first)
    assert (tmp_path / "p.md").read_text(encoding="utf-8") == f"r.json: {len(first)}\n"


def test_the_committed_page_is_that_of_the_results() -> None:
    committed = (ROOT / "docs/measured/settle-simulation.md").read_text(encoding="utf-8")
    assert committed == settle_page.render(RESULTS.name, read(RESULTS))


def test_no_family_is_wrong_too_often_where_the_scores_allow_a_t_test() -> None:
    cells = {(cell.row, cell.column): cell for cell in read(RESULTS).cells if cell.table == "wrong"}
    sizes = {row.split(" ", 1)[0] for row, _ in cells}
    for scores in SCORES:
        for size in sizes:
            for test in {"difference", "equivalence"} - {scores.weak}:
                for column in ("split", "both tests"):
                    cell = cells[f"{size} {scores.name}", f"{test}, {column}"]
                    assert cell.rate - 3 * cell.error <= 0.05, cell
                    assert cell.repetitions == 10_000
    assert LOOKS == (5, 10, 20, 40)


def test_a_table_that_is_simulated_later_has_facts_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    known = read(RESULTS)
    monkeypatch.setattr(settle, "machine", lambda _: "another CPU")
    table, row, _ = next(question for question in questions() if question[0] == "covered")
    found = settle._with_row(known, table, row, {"repeated": Rate(0.95, 0.002, 10_000)}, 2.0)
    assert found.facts_of("wrong") == known.facts
    assert found.facts_of("covered")["machine"].endswith("another CPU")
    assert found.seconds["covered"] == pytest.approx(known.seconds["covered"] + 2)
    assert len(found.table("covered")) == len(known.table("covered")) - 2  # that row had three numbers
