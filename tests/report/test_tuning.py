"""What the report says of tuning, and of seeds that learned nothing; numbers by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from kdcache.report import collapsed, tuning
from kdcache.report.page import render
from kdcache.results.reading import Metrics, read_metrics
from kdcache.study import Study
from kdcache.study.tuning import Tuning
from tests.report import samples

SPACE = {"all": {"epochs": [1, 4, 8]}, "kd": {"alpha": [0.1, 0.5, 1.0]}}

TUNED = {"seeds": [100, 101], "budget": 3, "space": SPACE}


def study() -> Study:
    return Study.model_validate({**yaml.safe_load(samples.PARAMS), "tuning": TUNED})


def rows() -> pd.DataFrame:
    """base is best with the most epochs there are, kd with alpha 1 and 4 epochs; two seeds, 2 points apart."""
    tried = {
        "base": [("epochs 1", 0.70), ("epochs 4", 0.79), ("epochs 8", 0.80)],
        "kd": [("epochs 4, alpha 0.5", 0.75), ("epochs 4, alpha 1", 0.82), ("epochs 1, alpha 1", 0.81)],
    }
    chosen = {"base": 3, "kd": 2}
    records: list[dict[str, Any]] = [
        {
            "task": "bbc-headlines",
            "role": "student",
            "model": "bert-tiny",
            "regularizer": method,
            "setting": place,
        }
        | {"values": values, "seed": seed, "metric": "accuracy", "score": score + (seed - 100.5) / 50}
        | {"chosen": place == chosen[method]}
        for method, settings in tried.items()
        for place, (values, score) in enumerate(settings, start=1)
        for seed in (100, 101)
    ]
    return pd.DataFrame(records)


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    samples.write_all(tmp_path)
    return replace(read_metrics(tmp_path), tuning=rows())


def test_what_was_chosen_and_how_flat_it_is(metrics: Metrics) -> None:
    section = tuning.make_section(metrics, study())
    assert section is not None
    base, kd = section.rows[0]
    assert (base.values, base.best, kd.values, kd.best) == ("epochs 8", "80.0", "epochs 4, alpha 1", "82.0")
    assert (base.median_gap, base.near, kd.near) == ("1.0", "2 of 3", "2 of 3")  # the margin is 1 point
    # of two draws from 70, 79 and 80 the best is 80 in 5 of 9 cases, 79 in 3, 70 in 1
    assert section.steps == [1, 2, 3]
    assert base.expected == ["76.3", "78.6", "79.4"]  # of three: (1 * 70 + 7 * 79 + 19 * 80) / 27


def test_of_two_settings_the_median_is_between_them(metrics: Metrics) -> None:
    two = metrics.tuning[(metrics.tuning["setting"] < 3) & (metrics.tuning["regularizer"] == "base")].copy()
    two["chosen"] = two["setting"] == two.loc[two["score"].idxmax(), "setting"]
    section = tuning.make_section(replace(metrics, tuning=two), study())
    assert section is not None
    assert section.rows[0][0].median_gap == "4.5"  # 79 is chosen, 70 is 9 behind


def test_a_teacher_stands_beside_them_by_its_nll(metrics: Metrics) -> None:
    tried = [
        {
            "task": "bbc-headlines",
            "role": "teacher",
            "model": "bert-small",
            "regularizer": "base",
            "setting": place,
        }
        | {"values": values, "seed": 100, "metric": "nll", "score": score, "chosen": score == 0.5}
        for place, (values, score) in enumerate([("epochs 2", 0.5), ("epochs 8", 0.75)], start=1)
    ]
    spaces = {"teachers": {"epochs": [2, 8]}}
    with_teachers = study().model_copy(update={"tuning": Tuning.model_validate({**TUNED, **spaces})})
    found = replace(metrics, tuning=pd.concat([pd.DataFrame(tried), rows()]))
    section = tuning.make_section(found, with_teachers)
    assert section is not None
    line = section.rows[0][0]
    assert (line.model, line.regularizer, line.values, line.best) == (
        "teacher bert-small",
        "–",
        "epochs 2",
        "0.500",
    )
    assert line.expected == ["0.625", "0.562", ""]  # of one draw 5/8; of two 3/4 * 0.5 + 1/4 * 0.75
    assert "teacher bert-small: the chosen epochs 2 is the smallest" in section.warnings[0]
    assert len(section.charts) == 1  # of the student
    assert "Teachers were chosen by nll" in render(found, with_teachers, [])


def test_teachers_alone(metrics: Metrics) -> None:
    tried = [
        {"task": "bbc-headlines", "role": "teacher", "model": "bert-small", "regularizer": "base", "setting": place,
         "values": f"epochs {epochs}", "seed": 100, "metric": "nll", "score": score, "chosen": place == 2}
        for place, (epochs, score) in enumerate([(1, 0.8), (2, 0.5), (8, 0.75)], start=1)
    ]  # fmt: skip
    alone = study().model_copy(
        update={"tuning": Tuning.model_validate({**TUNED, "space": {}, "teachers": {"epochs": [1, 2, 8]}})}
    )
    page = render(replace(metrics, tuning=pd.DataFrame(tried)), alone, [])
    assert "Every teacher had the same budget before the trials" in page
    assert "Teachers were chosen by nll" in page
    assert "that was to be tried" not in page  # 2 is at neither edge


def test_a_value_at_the_edge_is_a_warning_but_not_where_it_can_go_no_further(metrics: Metrics) -> None:
    section = tuning.make_section(metrics, study())
    assert section is not None
    (warning,) = section.warnings  # of alpha there is no larger one than 1
    assert (
        "base: the chosen epochs 8 is the largest that was to be tried; a larger one may be better" in warning
    )


def test_the_page_has_the_section_where_there_is_tuning_only(metrics: Metrics) -> None:
    page = render(metrics, study(), [])
    assert 'id="h-tuning"' in page
    assert "scored on 20% of train, held out" in page
    assert "tuned epochs and α" in page or "h-tables" not in page
    assert 'id="h-tuning"' not in render(metrics, samples.study(), [])


def test_seeds_that_learned_nothing_are_named(metrics: Metrics) -> None:
    """One answer for every row has 24 points on the headlines: seeds 1 and 3 of KD from scratch score no more."""
    trials = metrics.trials.copy()
    of_one = (trials["student"] == "bert-tiny-scratch") & (trials["regularizer"] == "kd")
    trials.loc[of_one & (trials["seed"] == 1), "accuracy"] = 0.24
    trials.loc[of_one & (trials["seed"] == 3), "accuracy"] = 0.1
    section = collapsed.make_section(replace(metrics, trials=trials), samples.study())
    assert section is not None
    (found,) = section.rows
    assert found.sentence == (
        "bbc-headlines: bert-tiny-scratch, kd: seeds 1 and 3 of 5 learned nothing: accuracy at or below 24.0, what one "
        "answer for every row has."
    )
    assert "learned nothing" in render(replace(metrics, trials=trials), samples.study(), [])
    assert collapsed.make_section(metrics, samples.study()) is None


def test_a_task_without_a_teacher_has_its_majority_from_the_provenance(metrics: Metrics) -> None:
    facts = {"tasks": {"digits": {"rows": {}, "data": "d", "majority": 0.99}}}
    bare = replace(metrics, teachers=metrics.teachers.iloc[:0], provenance=facts)
    assert collapsed.majorities(bare) == {"digits": 99.0}
    assert {one.task for one in collapsed.collapsed(bare, samples.study())} == {"digits"}
