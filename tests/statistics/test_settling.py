"""Looks of a whole study: tables at the look of each comparison, claims at theirs, and who goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from kdcache.statistics import compare, compare_inits, summarize, tabulate_looks
from kdcache.statistics.going_on import standing
from kdcache.statistics.replay import AT_MAXIMUM
from kdcache.statistics.settling import first_seeds, looks_taken, replay_study, stops_at
from kdcache.study import Study
from tests.statistics.helpers import make_study, make_trials
from tests.statistics.test_against_teacher_free import taught_study

PAIR = {"raw": ("t", "scratch"), "tiny": ("t", "pretrained")}
LOOKS: dict[str, Any] = {"seeds": range(12), "looks": [4, 8, 12], "stop_hopeless": 0}


def around(mean: float, sd: float, seeds: int, seed: int = 0) -> list[float]:
    """Scores with exactly this mean and sd at every even number of seeds: mean + sd, mean - sd, in turns."""
    return [mean + sd * (1 if (place + seed) % 2 else -1) for place in range(seeds)]


def points(study: Study, gains: dict[tuple[str, str], tuple[float, float, int]]) -> dict[Any, list[float]]:
    """The baseline is 80 at every seed; gains: (student, method) -> (mean, sd, seeds)."""
    table: dict[Any, list[float]] = {}
    for (student, method), (mean, sd, seeds) in gains.items():
        table["news", student, method] = [80 + value for value in around(mean, sd, seeds)]
        base = table.get(("news", student, "base"), [])
        table["news", student, "base"] = max(base, [80.0] * seeds, key=len)
    return table


def test_a_row_is_that_of_the_look_at_which_it_stopped() -> None:
    study = make_study(methods=["clear", "open"], **LOOKS)
    trials = make_trials(points(study, {("tiny", "clear"): (5, 0.2, 4), ("tiny", "open"): (0.5, 2, 12)}))
    clear, open_ = compare(trials, study).to_dict("records")
    assert (clear["verdict"], clear["outcome"], clear["look"], clear["seeds"]) == ("better", "better", 1, 4)
    assert (open_["verdict"], open_["outcome"], open_["seeds"]) == ("inconclusive", AT_MAXIMUM, 12)
    d = np.array(around(5, 0.2, 4))
    t_q = 3 * stats.ttest_1samp(d, 0).pvalue  # a third of alpha
    assert clear["t_q"] == pytest.approx(t_q)
    assert clear["t_p_corrected"] == pytest.approx(2 * t_q)  # Holm: the smaller of two
    half = stats.t.isf(0.05 / 3 / 2, 3) * d.std(ddof=1) / 2
    assert (clear["ci_low"], clear["ci_high"]) == pytest.approx((5 - half, 5 + half))


def test_looks_csv_has_a_row_for_every_comparison_that_was_open_at_a_look() -> None:
    study = make_study(methods=["clear", "open"], **LOOKS)
    trials = make_trials(points(study, {("tiny", "clear"): (5, 0.2, 4), ("tiny", "open"): (0.5, 2, 12)}))
    rows = tabulate_looks(trials, study)
    assert list(zip(rows["regularizer"], rows["look"], rows["outcome"], strict=True)) == [
        ("clear", 1, "better"),
        ("open", 1, "goes on"),
        ("open", 2, "goes on"),
        ("open", 3, AT_MAXIMUM),
    ]


def test_trials_beyond_the_look_change_nothing() -> None:
    study = make_study(methods=["clear"], **LOOKS)
    few, many = (
        compare(make_trials(points(study, {("tiny", "clear"): (5, 0.2, seeds)})), study) for seeds in (4, 12)
    )
    assert few.equals(many)


def test_a_fixed_design_has_one_look() -> None:
    study = make_study(seeds=range(4))
    trials = make_trials(points(study, {("tiny", "smooth"): (5, 0.2, 4)}))
    (row,) = compare(trials, study).to_dict("records")
    assert (row["look"], row["outcome"], row["t_q"]) == (1, "better", row["t_p"])
    assert len(tabulate_looks(trials, study)) == 1


def test_families_do_not_wait_for_each_other() -> None:
    study = make_study(students=PAIR, methods=["mild"], **LOOKS)
    trials = make_trials(points(study, {("tiny", "mild"): (0.5, 2, 8), ("raw", "mild"): (5, 0.2, 4)}))
    now = standing(trials, study)
    assert now.look == 2
    assert now.verdicts == {"better": 1}
    assert now.counts["news"] == {"raw": {"base": 4, "mild": 4}, "tiny": {"base": 12, "mild": 12}}
    assert [one.verdict for one in now.outcomes] == ["better", "not settled yet (look 3 of 3)"]


def test_with_claims_a_configuration_goes_on_while_a_claim_about_it_is_open() -> None:
    verdicts = make_study(students=PAIR, methods=["mild"], **LOOKS)
    claims = make_study(students=PAIR, methods=["mild"], settle="claims", **LOOKS)
    # both are equivalent at once, and their difference is not shown
    trials = make_trials(points(verdicts, {("tiny", "mild"): (0, 0.1, 4), ("raw", "mild"): (0, 0.1, 4)}))
    assert standing(trials, verdicts).counts["news"]["raw"] == {"base": 4, "mild": 4}
    assert standing(trials, claims).counts["news"]["raw"] == {"base": 8, "mild": 8}
    assert standing(trials, claims).verdicts == {"equivalent": 2}


def settled(study: Study, table: dict[Any, list[float]], counts: dict[Any, int] | None = None) -> Any:
    """`kdcache settle`: judge the trials of the seeds so far, take the seeds that are asked for, until none is.

    No configuration may lose seeds: a study that gives some back, and asks for them again, never ends.
    """
    counts = dict.fromkeys(table, study.looks[0])
    for _ in study.looks:
        now = standing(make_trials({name: table[name][:n] for name, n in counts.items()}), study)
        wanted = {
            (task, student, method): now.counts[task][student][method] for task, student, method in counts
        }
        assert all(wanted[name] >= counts[name] for name in counts), (counts, wanted)
        if wanted == counts:
            return now
        counts = wanted
    raise AssertionError("the study goes on after its last look")


def test_an_answered_claim_keeps_the_seeds_that_answered_it() -> None:
    study = make_study(students=PAIR, methods=["mild"], settle="claims", **LOOKS)
    # "tiny" has its verdict at the first look; the interaction is shown at the second alone
    table = points(study, {("tiny", "mild"): (0, 0.1, 12), ("raw", "mild"): (1.6, 1.5, 12)})
    assert compare_inits(make_trials({name: row[:4] for name, row in table.items()}), study).iloc[0][
        "verdict"
    ] == ("inconclusive")
    assert settled(study, table).counts["news"]["tiny"] == {"base": 8, "mild": 8}


def test_a_claim_that_is_denied_gets_no_more_seeds() -> None:
    study = make_study(students=PAIR, methods=["mild"], settle="claims", **LOOKS)
    # "tiny" has its verdict at the first look; that "raw" gains less than 1 point more is shown at the second
    table = points(study, {("tiny", "mild"): (0, 0.1, 12), ("raw", "mild"): (0.2, 0.5, 12)})
    first = make_trials({name: row[:4] for name, row in table.items()})
    assert compare_inits(first, study).iloc[0]["verdict"] == "inconclusive"
    ended = settled(study, table)
    assert ended.verdicts == {"equivalent": 2}
    assert ended.counts["news"]["raw"] == ended.counts["news"]["tiny"] == {"base": 8, "mild": 8}


def with_two_distillers(settle: str) -> Study:
    """Two pairs of students, and two kinds of KD, of which one may answer the claim while the other is open."""
    students = PAIR | {"other-raw": ("o", "scratch"), "other": ("o", "pretrained")}
    content = taught_study(students=students, settle=settle, **LOOKS).model_dump(exclude_unset=True)
    content["distillers"]["kd2"] = content["distillers"]["kd"] | {"alpha": 0.9}
    return Study.model_validate(content)


@pytest.mark.parametrize("seed", range(10))
def test_every_study_ends_gives_no_seeds_back_and_ends_alike_from_verdicts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    effect, spread = rng.choice([0.0, 0.6, 1.5]), rng.choice([0.2, 1.0])
    study, verdicts = with_two_distillers("claims"), with_two_distillers("verdicts")
    gains = {"kd": effect, "kd2": effect / 2}
    table = {
        (task, student, method): list(
            80
            + gains.get(method, 0) * (1 + (study.students[student].init == "scratch"))
            + rng.normal(0, spread, 12)
        )
        for task, student, method in study.configurations()
    }
    first = settled(verdicts, table).counts
    counts = {(task, student, method): first[task][student][method] for task, student, method in table}
    assert settled(study, table).counts == settled(study, table, counts).counts


def test_an_interaction_is_tested_at_the_last_look_that_all_its_trials_allow() -> None:
    study = make_study(students=PAIR, methods=["mild"], **LOOKS)
    cells = points(study, {("tiny", "mild"): (0, 0.5, 8), ("raw", "mild"): (0.4, 0.5, 12)})
    cells["news", "raw", "mild"] = [80 + v for v in around(0.4, 0.5, 12, seed=1)]
    row = compare_inits(make_trials(cells), study).iloc[0]
    d = np.array(cells["news", "raw", "mild"])[:8] - np.array(cells["news", "tiny", "mild"])
    p = stats.ttest_1samp(d, 0, alternative="greater").pvalue
    assert (row["look"], row["n"]) == (2, 8)
    assert row["p"] == pytest.approx(p)
    assert row["p_corrected"] == pytest.approx(min(1, 3 * p))
    half = stats.t.isf(0.05 / 3 / 2, 7) * d.std(ddof=1) / np.sqrt(8)
    assert row["ci_high"] - row["interaction"] == pytest.approx(half)


def test_an_interaction_that_is_shown_stays_shown() -> None:
    study = make_study(students=PAIR, methods=["mild"], **LOOKS)
    cells = points(study, {("tiny", "mild"): (0, 0.1, 12), ("raw", "mild"): (3, 0.1, 12)})
    cells["news", "raw", "mild"][:4] = [83.2, 82.9, 83.1, 83.0]
    cells["news", "raw", "mild"][4:] = [70.0, 96.0] * 4
    row = compare_inits(make_trials(cells), study).iloc[0]
    assert (row["look"], row["verdict"]) == (1, "supported")


def test_no_correction_for_the_claim_that_all_are_equivalent() -> None:
    study = make_study(methods=["mild", "strong"], seeds=range(4))
    # TOST p between 0.025 and 0.05 each: neither row is equivalent after Holm, both together are
    sd = 1.0 * np.sqrt(4) / stats.t.isf(0.04, 3)
    gains = (0, float(sd * np.sqrt(3) / 2), 4)
    trials = make_trials(points(study, {("tiny", "mild"): gains, ("tiny", "strong"): gains}))
    compared = compare(trials, study)
    assert compared["tost_p"].tolist() == pytest.approx([0.04, 0.04])
    assert set(compared["verdict"]) == {"inconclusive"}
    (claim, *_) = summarize(trials, study)["claims"]
    assert (claim["id"], claim["verdict"]) == ("pretrained_within_margin", "supported")
    assert (claim["within_margin"], claim["undecided"]) == (2, 0)


def test_counting_looks() -> None:
    study = make_study(**LOOKS)
    full, short = dict.fromkeys(range(12), 0.0), dict.fromkeys([*range(7), *range(8, 12)], 0.0)
    assert looks_taken(study, [full, full]) == 3
    assert looks_taken(study, [full, short]) == 1
    assert looks_taken(study, [{}]) == 0
    assert looks_taken(make_study(), [{}]) == 1
    assert stops_at([], 0.05) == 0
    assert stops_at([0.2, 0.04, 0.5], 0.05) == 2
    assert stops_at([None, 0.06], 0.05) == 2
    name = ("news", "tiny", "base")
    assert list(first_seeds({name: full}, study, 2)[name]) == list(range(8))


@pytest.mark.parametrize("seed", range(20))
def test_what_it_asks_for_is_enough_for_the_next_look(seed: int) -> None:
    """Giving every configuration the seeds that are asked for ends, and asks for the same from all trials at once."""
    study = make_study(students=PAIR, methods=["mild", "strong"], **LOOKS)
    rng = np.random.default_rng(seed)
    scores = {cell: rng.normal(80 + rng.choice([0, 0, 2]), 1, 12) for cell in study.configurations()}
    counts, rounds = dict.fromkeys(scores, 4), 0
    while True:
        now = standing(make_trials({c: scores[c][:n].tolist() for c, n in counts.items()}), study)
        asked = {(t, s, m): now.counts[t][s][m] for t, s, m in counts}
        if asked == counts:
            break
        assert all(asked[cell] >= n for cell, n in counts.items())
        counts, rounds = asked, rounds + 1
    assert rounds <= 2
    assert standing(make_trials({c: v.tolist() for c, v in scores.items()}), study) == now
    replayed = replay_study({c: dict(enumerate(v[: counts[c]])) for c, v in scores.items()}, study)
    assert all(outcome.stopped_by for outcome in replayed.outcomes.values())


def test_a_gain_that_is_larger_by_the_margin_is_seldom_denied_at_any_look() -> None:
    """300 studies in which the truth lies on the margin, judged at every look."""
    study, rng = make_study(students=PAIR, methods=["mild"], **LOOKS), np.random.default_rng(5)
    denied = 0
    for _ in range(300):
        noise = rng.normal(0, 0.8, (4, 12))
        gains = {("tiny", "base"): 0, ("tiny", "mild"): 0, ("raw", "base"): 0, ("raw", "mild"): 1.0}
        cells = {
            ("news", *name): 80 + gain + row for (name, gain), row in zip(gains.items(), noise, strict=True)
        }
        denied += compare_inits(make_trials(cells), study).iloc[0]["verdict"] == "contradicted"
    assert 0 < denied / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
