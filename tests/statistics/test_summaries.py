"""summary.json: claims follow from the rows, the layout is plain JSON, equal results give equal bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.power import TTestPower

from kdcache.errors import KdcacheError
from kdcache.results.writing import write_summary, write_table
from kdcache.statistics import compare, headline, summarize
from kdcache.study import Study
from tests.statistics.helpers import make_study, make_trials

PAIR = {"tiny": ("t", "pretrained"), "raw": ("t", "scratch")}
NOISE = np.array([0.1, -0.1, 0.2, 0.0, -0.2])


def study_with(pretrained: float, scratch: float, noise: float = 1.0) -> tuple[pd.DataFrame, Study]:
    base = 70 + np.arange(5.0)
    cells = {
        ("news", student, method): base + (gain + noise * NOISE if method != "base" else 0)
        for student, gain in (("tiny", pretrained), ("raw", scratch))
        for method in ("base", "smooth")
    }
    return make_trials(cells), make_study(students=PAIR)


def claims(trials: pd.DataFrame, study: Study) -> dict[str, str]:
    return {claim["id"]: claim["verdict"] for claim in summarize(trials, study)["claims"]}


def test_the_papers_finding() -> None:
    trials, study = study_with(pretrained=0.1, scratch=3.0)
    # both students have the same noise, which cancels in the interaction: give one of them a little more
    more = (trials["student"] == "raw") & (trials["regularizer"] == "smooth")
    trials.loc[more, "accuracy"] += [0.001, 0, -0.001, 0.002, 0]
    assert claims(trials, study) == {
        "pretrained_within_margin": "supported",
        "scratch_some_better": "supported",
        "interaction": "supported",
    }


def test_the_opposite_finding() -> None:
    found = claims(*study_with(pretrained=3.0, scratch=0.1))
    assert found["pretrained_within_margin"] == "contradicted"
    assert found["scratch_some_better"] == "contradicted"
    assert found["interaction"] == "contradicted"


def test_noise_settles_nothing() -> None:
    trials, study = study_with(pretrained=0.5, scratch=0.5, noise=20)
    own = (trials["student"] == "raw") & (trials["regularizer"] == "smooth")
    trials.loc[own, "accuracy"] += np.roll(NOISE, 1) / 5  # or the noise would cancel in the interaction
    found = claims(trials, study)
    assert set(found.values()) == {"inconclusive"}


@pytest.mark.parametrize(
    "scratch", [0.3, 0.7, 0.9, 1.3]
)  # the margin is 1: of 0.3 to 1.3 two are nearer to it than to 0
def test_the_seeds_that_an_interaction_takes_are_those_of_a_one_sided_paired_test(scratch: float) -> None:
    trials, study = study_with(pretrained=0.1, scratch=scratch)
    more = (trials["student"] == "raw") & (trials["regularizer"] == "smooth")
    spread = np.array([0.01, -0.004, 0.0, 0.008, -0.014])  # sums to 0: the interaction is as declared
    trials.loc[more, "accuracy"] += spread
    found = next(claim for claim in summarize(trials, study)["claims"] if claim["id"] == "interaction")
    distance = max(
        scratch - 0.1, 1 - (scratch - 0.1)
    )  # from 0, or from the margin: the test that takes fewer seeds
    effect = distance / (100 * np.std(spread, ddof=1))

    def chance(seeds: int) -> float:
        return float(TTestPower().power(effect, seeds, 0.05, alternative="larger"))

    assert chance(found["seeds_to_settle"] - 1) < 0.8 <= chance(found["seeds_to_settle"])
    assert found["seeds_declared"] == 5


def test_the_seeds_that_an_interaction_without_spread_takes_are_those_of_a_sign_flip_test() -> None:
    found = summarize(*study_with(pretrained=0.1, scratch=0.7))["claims"][2]
    assert found["seeds_to_settle"] == 5  # 1/2^5 <= 0.05 < 1/2^4


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ((("news", ""), ("news", "2")), "From 2 pairs of students, all on news, tested one-sided"),
        ((("news", ""), ("sport", "")), "From 2 pairs of students on 2 tasks, tested one-sided"),
    ],
)
def test_the_interaction_says_what_its_pairs_are_of(
    places: tuple[tuple[str, str], tuple[str, str]], said: str
) -> None:
    """Two pairs: two architectures on one task, or one on two tasks."""
    students = {
        f"{name}{suffix}": (f"t{suffix}", init) for _, suffix in places for name, (_, init) in PAIR.items()
    }
    cells = {
        (task, f"{name}{suffix}", method): 70 + (method != "base") * (place + 1 + NOISE)
        for place, (task, suffix) in enumerate(places)
        for name in PAIR
        for method in ("base", "smooth")
    }
    study = make_study(tasks=list(dict.fromkeys(task for task, _ in places)), students=students)
    (claim,) = [
        claim for claim in summarize(make_trials(cells), study)["claims"] if claim["id"] == "interaction"
    ]
    assert claim["beside"].startswith(said)


def test_the_pairs_that_an_interaction_takes_are_those_of_a_test_over_pairs() -> None:
    gains = {("news", "raw"): 0.3, ("sport", "raw"): 0.7}  # pretrained: nothing
    cells = {
        (task, student, method): 70 + NOISE + (method != "base") * gains.get((task, student), 0.0)
        for task in ("news", "sport")
        for student in PAIR
        for method in ("base", "smooth")
    }
    found = summarize(make_trials(cells), make_study(tasks=["news", "sport"], students=PAIR))["claims"][2]
    effect = 0.5 / np.std([0.3, 0.7], ddof=1)

    def chance(pairs: int) -> float:
        return float(TTestPower().power(effect, pairs, 0.05, alternative="larger"))

    assert chance(found["pairs_to_settle"] - 1) < 0.8 <= chance(found["pairs_to_settle"])
    assert found["seeds_to_settle"] is None


def test_verdicts_in_a_few_flat_values() -> None:
    trials, study = study_with(pretrained=0.5, scratch=2.0)
    compared = compare(trials, study)
    found = headline(summarize(trials, study, compared), compared)
    # gains of 0.5 and 2 points, whose noise has mean 0
    assert found["gain"] == {"smooth": pytest.approx(1.25)}
    counts = compared["verdict"].value_counts()
    assert [found[name] for name in ("better", "worse", "equivalent", "inconclusive")] == [
        counts.get(name, 0) for name in ("better", "worse", "equivalent", "inconclusive")
    ]
    assert {name: verdict for name, verdict in found.items() if isinstance(verdict, str)} == claims(
        trials, study
    )


def test_contents() -> None:
    trials, study = study_with(0.1, 3.0)
    found = summarize(trials, study)
    assert found["study"]["trials"] == {"found": 20, "expected": 20}
    assert found["study"]["tasks"] == {"news": {"metric": "accuracy", "margin": 1.0}}
    assert found["decided"]["correction"] == "holm"
    assert found["design"]["detectable_sd"] == pytest.approx(1.682, abs=5e-4)
    assert found["design"]["tost_margin_sd"] == pytest.approx(1.600, abs=1e-3)
    assert found["design"]["sign_flip_floor"] == 0.0625
    assert found["verdicts"]["scratch"] == {
        "better": 1, "worse": 0, "equivalent": 0, "inconclusive": 0, "negligible": 0, "comparisons": 1,
    }  # fmt: skip
    assert len(found["configurations"]) == 4
    assert "within 1 point of plain fine-tuning" in found["claims"][0]["sentence"]
    json.dumps(found, allow_nan=False)


def test_one_seed_is_plain_json_too() -> None:
    trials, _ = study_with(0.1, 3.0)
    few = make_study(students=PAIR, seeds=[0])
    found = summarize(trials, few)
    assert found["design"]["sign_flip_floor"] is None
    assert {claim["verdict"] for claim in found["claims"]} == {"inconclusive"}
    json.dumps(found, allow_nan=False)


def test_claims_only_where_they_can_be_asked() -> None:
    trials = make_trials({("news", "tiny", m): 70 + np.arange(5.0) for m in ("base", "smooth")})
    assert [claim["id"] for claim in summarize(trials, make_study())["claims"]] == [
        "pretrained_within_margin"
    ]


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    trials, study = study_with(0.1, 3.0)
    for folder in ("a", "b"):
        write_table(compare(trials, study), tmp_path / folder / "comparisons.csv")
        write_summary(summarize(trials, study), tmp_path / folder / "summary.json")
    for name in ("comparisons.csv", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["comparisons.csv", "summary.json"]


def test_csv_format(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"name": ["a,b", "c"], "flag": [True, False], "x": [1 / 3, float("nan")], "n": [5, 6]}
    )
    write_table(frame, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == 'name,flag,x,n\n"a,b",true,0.333333,5\nc,false,,6\n'


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(KdcacheError):
        write_summary({"x": float("nan")}, tmp_path / "s.json")
    assert not (tmp_path / "s.json").exists()


def test_csv_has_no_minus_zero_and_refuses_infinity(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"x": [-0.0, 1.0]}), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "x\n0\n1\n"
    with pytest.raises(KdcacheError, match="column x has an infinite number"):
        write_table(pd.DataFrame({"x": [float("inf"), 1.0]}), tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()


def test_nothing_helps_is_not_shown_where_the_table_calls_one_better() -> None:
    """Each task is a family of one: p = 0.036 is better there, negligible, and 0.071 over both."""
    gain = np.array([0.1, 0.2, 0.3, 0.4, 0.6])
    base = 70 + np.arange(5.0)
    points = {
        (task, "raw", name): base + (by if name == "smooth" else 0)
        for task, by in (("news", gain), ("sport", 0.02 + NOISE))
        for name in ("base", "smooth")
    }
    trials, study = make_trials(points), make_study(["news", "sport"], {"raw": ("t", "scratch")})
    compared = compare(trials, study)
    assert list(compared["verdict"]) == ["better", "equivalent"]
    (claim,) = summarize(trials, study)["claims"]
    assert claim["better"] == 1  # so large a gain is better in the claim, too
    points["news", "raw", "smooth"] = base + np.array([0.05, 0.15, 0.3, 0.4, 0.6])
    trials = make_trials(points)
    assert list(compare(trials, study)["verdict"]) == ["better", "equivalent"]
    (claim,) = summarize(trials, study)["claims"]
    assert (claim["better"], claim["verdict"]) == (0, "inconclusive")
