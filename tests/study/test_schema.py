"""The whole of a study, and how it compares its methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.study import Study, load_study
from tests.study.samples import ABSENT, STUDY, changed, only_mistake, write

ONE = [
    ({"seeds": ABSENT}, "seeds: missing"),
    ({"seeds": []}, "seeds: expected at least 1, found 0"),
    ({"seeds": [0, 1, 0]}, "seeds: a seed is listed twice: [0, 1, 0]"),
    ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0, found -1"),
    ({"seeds": [2**32]}, "seeds.0: Input should be less than 4294967296"),
    ({"seeds": [0.5]}, "seeds.0: Input should be a valid integer"),
    ({"seeds": 0}, "seeds: expected a list of seeds, their number, 1 to 10000, or {first: 100, count: 40}, found 0"),
    ({"seeds": {"first": 1}}, "seeds: expected a list of seeds, their number, 1 to 10000, or {first: 100, count: 40}"),
    ({"seeds": {"first": -1, "count": 2}}, "seeds: expected a list of seeds, their number, 1 to 10000, or"),
    ({"seeds": {"first": 2**32 - 6, "count": 40}},
     "seeds: the last seed would be 4294967329, the largest is 4294967295"),
    ({"seeds": "3"}, "seeds: expected a list, such as [3], found '3'"),
    ({"comparison.looks": []}, "comparison.looks: expected at least 1, found 0"),
    ({"comparison.looks": [1, 2]}, "comparison.looks.0: Input should be greater than or equal to 2, found 1"),
    ({"comparison.looks": [5, 2]}, "comparison: looks must increase"),
    ({"seeds": 4, "comparison.looks": [2, 4], "comparison.spend": [0.5, 0.6]},
     "comparison: the shares of alpha must sum to 1 at most"),
    ({"seeds": 4, "comparison.looks": [2, 4], "comparison.correction": "fdr_bh"},
     "comparison: fdr_bh does not keep its promise"),
    ({"seeds": 4, "comparison.looks": [3, 4], "comparison.boundaries": "exact"},
     "comparison: exact boundaries need two or more new seeds"),
    ({"comparison.spend": "late"}, "comparison: spend: for studies with looks only; declare looks"),
    ({"comparison.looks": [2, 4]}, "(top level): seeds: 2, but the last look has 4; write `seeds: 4`"),
    ({"seeds": {"first": 1100, "count": 2}, "comparison.looks": [2, 5]},
     "(top level): seeds: 2, but the last look has 5; write `seeds: {first: 1100, count: 5}`"),
    ({"seeds": [3, 9], "comparison.looks": [2, 5]},
     "(top level): seeds: 2, but the last look has 5; list 5 seeds"),
    ({"tasks": {}}, "tasks: expected at least 1, found 0"),
    ({"comparison": ABSENT}, "comparison: missing"),
    ({"comparison.margin": ABSENT}, "comparison.margin: missing"),
    ({"comparison.margin": {"accuracy": 0}},
     "comparison.margin.accuracy: Input should be greater than 0, found 0"),
    ({"comparison.margin": {"accuracy": 1, "bleu": 1}},
     "comparison.margin.bleu: Input should be 'accuracy', 'f1'"),
    ({"comparison.alpha": 0.5}, "comparison.alpha: Input should be less than 0.5, found 0.5"),
    ({"comparison.correction": "tukey"},
     "comparison.correction: Input should be 'holm', 'bonferroni', 'fdr_bh' or"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), ONE, ids=[expected[:50] for _, expected in ONE])
def test_a_mistake_at_the_top_or_in_the_comparison(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    assert only_mistake(tmp_path, changes).startswith(expected)


def test_a_correct_study_is_read_with_its_defaults(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, STUDY))
    assert study.students["small"].init == "pretrained"
    assert study.students["small"].warmup == 0.1
    assert study.comparison.alpha == 0.05
    assert study.tasks["news"].modality == "text"
    assert study.tasks["digits"].modality == "image"
    assert study.regularizers["base"].is_base


def test_the_grid_leaves_out_pairs_that_tasks_excludes(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, STUDY))
    methods = ["base", "smooth", "kd", "self_kd"]
    assert list(study.configurations()) == [
        *[("news", "small", method) for method in methods],
        *[("digits", "glance", method) for method in methods],
    ]
    assert list(study.taught()) == [("news", "big"), ("digits", "eye")]
    assert study.method("kd").soft_labels == "teacher"
    assert study.method("smooth").alpha == 0.1


def test_a_number_of_seeds_stands_for_the_first_ones(tmp_path: Path) -> None:
    assert load_study(write(tmp_path, changed({"seeds": 3}))).seeds == [0, 1, 2]


def test_every_trial_that_is_asked_for(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, changed({"seeds": 4, "comparison.looks": [2, 4]})))
    of_student = {"base": 2, "smooth": 4, "kd": 2, "self_kd": 2}
    study = study.with_settled({"news": {"small": of_student}})
    seeds = {
        name: [s for *cell, s in study.all_trials() if cell == ["news", "small", name]] for name in of_student
    }
    assert seeds == {"base": [0, 1, 2, 3], "smooth": [0, 1, 2, 3], "kd": [0, 1], "self_kd": [0, 1]}
    assert len([one for one in study.all_trials() if one[0] == "digits"]) == 8


def test_a_study_can_be_built_without_a_file() -> None:
    assert Study.model_validate(STUDY).comparison.baseline == "base"
