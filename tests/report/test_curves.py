"""Learning curves: every epoch is drawn, the spread where there is one, and the chart is valid."""

from pathlib import Path

import altair as alt

from kdcache.report import curves
from kdcache.results.reading import read_metrics
from tests.report import samples


def test_a_chart_per_student(tmp_path: Path) -> None:
    drawn = curves.diagrams(read_metrics(samples.write_all(tmp_path)))
    assert [drawing.title for drawing in drawn] == [
        *("bbc-headlines: bert-tiny", "bbc-headlines: bert-tiny-scratch", "digits: vit-tiny")
    ]
    assert "base from 1.200 to 0.500 in 3 epochs; " in drawn[0].alt
    alt.Chart.from_dict(drawn[0].spec)  # raises SchemaValidationError


def test_every_epoch_with_its_spread(tmp_path: Path) -> None:
    spec = curves.diagrams(read_metrics(samples.write_all(tmp_path)))[0].spec
    (values,) = spec["datasets"].values() if "datasets" in spec else [spec["layer"][0]["data"]["values"]]
    kd = [row for row in values if row["regularizer"] == "kd"]
    assert len(values) == 15
    assert [(row["epoch"], row["loss"], row["low"], row["high"], row["said"]) for row in kd] == [
        (1, 2.4, 2.3, 2.5, "2.400 ± 0.100"),
        (2, 1.6, 1.5, 1.7, "1.600 ± 0.100"),
        (3, 1.0, None, None, "1.000"),
    ]


def test_without_curves_csv_there_is_no_chart(tmp_path: Path) -> None:
    assert curves.diagrams(read_metrics(samples.write(tmp_path))) == []
