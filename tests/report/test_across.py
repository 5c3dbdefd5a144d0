"""Across tasks: the table, and which methods a critical difference does not tell apart."""

from pathlib import Path

import altair as alt
import pytest

from kdcache.report import across
from kdcache.results.reading import Metrics, read_metrics
from tests.report import samples


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return read_metrics(samples.write_all(tmp_path))


def test_only_groups_of_several_tasks(metrics: Metrics) -> None:
    rows = across.lines(metrics)
    assert {row.group for row in rows} == {"all pretrained students"}
    base, kd = rows[0], rows[3]
    assert (base.difference, base.interval, base.rank) == ("–", "–", "2.50")
    assert (kd.difference, kd.improvement, kd.bayes) == ("+0.50", "66%", "0% / 90% / 10%")
    assert (kd.permutation, kd.wilcoxon, kd.rank) == ("0.040", "0.250", "1.00")
    assert across.limits(metrics) == "0.0312"


@pytest.mark.parametrize(
    ("ranks", "critical", "runs"),
    [
        ([1.0, 2.5, 2.5, 4.0, 5.0], 2.0, [(1.0, 2.5), (2.5, 4.0), (4.0, 5.0)]),
        ([1.0, 2.0, 3.0], 5.0, [(1.0, 3.0)]),
        ([1.0, 2.0, 3.0], 0.5, []),
        ([2.0, 2.0], 1.0, []),  # equal ranks: a bar of no length
    ],
)
def test_cliques(ranks: list[float], critical: float, runs: list[tuple[float, float]]) -> None:
    assert across.cliques(ranks, critical) == runs


def test_the_diagram_says_the_ranks_in_order(metrics: Metrics) -> None:
    (drawing,) = across.diagrams(metrics)
    assert "kd 1.00, base 2.50, self_kd 2.50, label_smoothing 4.00, tf_reg 5.00" in drawing.alt
    assert "Critical difference 2.00" in drawing.alt
    assert drawing.title == "all pretrained students, 6 tasks; Friedman p 0.030"
    alt.Chart.from_dict(drawing.spec)  # raises SchemaValidationError


def test_without_the_file_there_is_nothing(tmp_path: Path) -> None:
    metrics = read_metrics(samples.write(tmp_path))
    assert (across.lines(metrics), across.diagrams(metrics), across.limits(metrics)) == ([], [], "")
