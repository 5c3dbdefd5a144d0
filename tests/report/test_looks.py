"""Look by look: a chart a student, what was saved, and what was changed afterwards."""

from dataclasses import replace
from pathlib import Path

import altair as alt
import pandas as pd
import pytest

from kdcache.report import looks
from kdcache.report.page import render
from kdcache.results.reading import Metrics, read_metrics
from kdcache.results.schema import LookRow
from kdcache.results.writing import tabulate, write_table
from kdcache.study import Study
from tests.report import samples


def study() -> Study:
    declared = samples.study().model_dump(mode="json", exclude_unset=True)
    declared["seeds"] = 10
    declared["comparison"]["looks"] = [5, 10]
    return Study.model_validate(declared)


def row(look: int, difference: float, outcome: str) -> LookRow:
    p = dict.fromkeys(("t_p", "tost_p", "t_q", "tost_q", "t_q_corrected", "tost_q_corrected"), 0.2)
    return LookRow(
        task="bbc-headlines", student="bert-tiny", regularizer="kd", look=look, seeds=5 * look, difference=difference,
        sd=1.0, share=0.5, chance=None, outcome=outcome, ci_low=difference - 1, ci_high=difference + 1, **p,
    )  # fmt: skip


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    folder = samples.write_all(tmp_path)
    write_table(tabulate(LookRow, [row(1, 0.5, "goes on"), row(2, 0.25, "equivalent")]), folder / "looks.csv")
    return read_metrics(folder)


def test_the_path_of_an_interval(metrics: Metrics) -> None:
    (drawing,) = looks.diagrams(metrics)
    assert drawing.title == "bbc-headlines: bert-tiny"
    assert "kd after 5 seeds +0.50 [−0.50, 1.50], goes on; kd after 10 seeds +0.25" in drawing.alt.replace(
        "\xa0", " "
    )
    assert "[−0.75, 1.25], equivalent" in drawing.alt.replace("\xa0", " ")
    alt.Chart.from_dict(drawing.spec)  # raises SchemaValidationError


def test_what_was_saved_and_declared(metrics: Metrics) -> None:
    section = looks.make_section(metrics, study())
    assert section is not None
    assert section.design == "after 5 and 10 seeds, with 50% and 50% of alpha"
    assert section.saved.startswith(
        "75 trials ran; 10 seeds for every configuration would have been 150: 50%"
    )
    assert section.changed == []


def test_nothing_is_saved_before_the_end(metrics: Metrics) -> None:
    comparisons = metrics.comparisons.assign(look=1, stopped_by="")
    section = looks.make_section(replace(metrics, comparisons=comparisons), study())
    assert section is not None
    assert section.saved == "75 trials ran so far, of 150 at most."


def test_what_was_changed_afterwards_is_said(metrics: Metrics) -> None:
    metrics.provenance["declared"] = [{"alpha": 0.05, "looks": [5]}, {"alpha": 0.1, "looks": [5]}]
    section = looks.make_section(metrics, study())
    assert section is not None
    assert section.changed == ["alpha: 0.05 became 0.1"]
    assert "Changed after trials had been judged" in render(metrics, study(), [])


def test_what_may_be_changed_afterwards_is_no_such_change(metrics: Metrics) -> None:
    """With `settle: claims` more seeds are asked for. No test changes."""
    before = {"alpha": 0.05, "looks": [5], "settle": "verdicts"}
    metrics.provenance["declared"] = [before, before | {"settle": "claims"}]
    section = looks.make_section(metrics, study())
    assert section is not None
    assert section.changed == []
    metrics.provenance["declared"] = [before, before | {"settle": "claims", "alpha": 0.1}]
    section = looks.make_section(metrics, study())
    assert section is not None
    assert section.changed == ["alpha: 0.05 became 0.1"]


def test_a_fixed_design_has_no_such_part(metrics: Metrics) -> None:
    assert looks.make_section(metrics, samples.study()) is None
    assert "Look by look" not in render(metrics, samples.study(), [])
    assert "Look by look" in render(metrics, study(), [])
    assert isinstance(metrics.looks, pd.DataFrame)
