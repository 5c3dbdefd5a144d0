"""How sure the first screen is: what few seeds cannot say, and what a study with looks has left to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.report import declared
from kdcache.results.reading import Metrics, read_metrics
from kdcache.study import Study
from tests.report import samples


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return read_metrics(samples.write(tmp_path))


def changed(metrics: Metrics, **columns: object) -> Metrics:
    return replace(metrics, comparisons=metrics.comparisons.assign(**columns))


def test_two_seeds_say_little(metrics: Metrics) -> None:
    said = declared.certainty(changed(metrics, seeds=2, ci_low=-72.0, ci_high=72.0), samples.study())
    assert "With 2 seeds an interval says little: the widest spans 144.00 points." in said
    assert "says little" not in declared.certainty(changed(metrics, seeds=4), samples.study())
    assert "says little" not in declared.certainty(changed(metrics, seeds=1, ci_low=None), samples.study())


@pytest.mark.parametrize(
    ("seeds", "floor", "said"),
    [
        (5, 0.0625, "With 5 seeds, an exact sign-flip test cannot give a p-value below 0.0625."),
        (20, 1e-5, "With 20 seeds, a randomly drawn sign-flip test cannot give a p-value below 0.00001."),
    ],
)
def test_the_sign_flip_test_is_exact_for_few_seeds(
    metrics: Metrics, seeds: int, floor: float, said: str
) -> None:
    metrics.summary["design"] |= {"seeds": seeds, "sign_flip_floor": floor}
    assert declared.limits(metrics).startswith(said)


def test_open_comparisons_of_a_study_with_looks(metrics: Metrics) -> None:
    fields = samples.study().model_dump(mode="json", exclude_unset=True)
    fields["seeds"], fields["comparison"]["looks"] = 10, [5, 10]
    study = Study.model_validate(fields)
    rows = len(metrics.comparisons)
    some = changed(metrics, look=1, stopped_by=["", "", *["difference"] * (rows - 2)])
    assert declared.certainty(some, study).endswith(
        " 2 comparisons are open: “kdcache settle” goes on with more seeds."
    )
    unseen = changed(
        some, look=None, stopped_by="", outcome="not settled yet"
    )  # looks declared after the trials
    assert f" {rows} comparisons are open" in declared.certainty(unseen, study)
    for ended in (changed(some, stopped_by="maximum"), metrics):
        assert declared.certainty(ended, study).endswith("inconclusive is not “no difference”.")
    assert "settle" not in declared.certainty(
        some, samples.study()
    )  # without looks there is nothing to go on to
