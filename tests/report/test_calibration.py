"""The calibration table and its diagrams, worked out by hand from the samples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import pytest

from kdcache.report import calibration
from kdcache.results.reading import Metrics, read_metrics
from kdcache.results.schema import CalibrationRow
from kdcache.results.writing import tabulate
from tests.report import samples


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return read_metrics(samples.write_all(tmp_path))


def rows_of(metrics: Metrics) -> dict[tuple[str, str], calibration.CalibrationLine]:
    return {(row.group, row.regularizer): row for row in calibration.lines(metrics, samples.study())}


def test_without_calibration_csv_the_change_is_described(tmp_path: Path) -> None:
    rows = rows_of(read_metrics(samples.write(tmp_path)))
    # nll = 1.5 - accuracy: 0.77 for base, 0.024 less for kd; ece does not depend on the regularizer
    base, kd = (rows["bbc-headlines: bert-tiny-scratch", name].scores for name in ("base", "kd"))
    assert base[0] == calibration.ScoreCell("0.770 ± 0.002")
    assert kd[0] == calibration.ScoreCell("0.746 ± 0.002", "−0.024")
    assert kd[2] == calibration.ScoreCell("0.052 ± 0.002", "0.000")
    assert len(rows) == 15


def test_a_tested_change_has_its_interval_and_direction(metrics: Metrics) -> None:
    score = rows_of(metrics)["digits: vit-tiny", "kd"].scores[2]
    interval = score.interval.replace("\N{NO-BREAK SPACE}", " ")
    assert (score.change, interval, score.direction) == ("+0.021", "[0.015, 0.027]", "worse")
    assert rows_of(metrics)["digits: vit-tiny", "base"].scores[2].change == ""


def test_overconfidence_weighs_the_bins_by_their_rows(metrics: Metrics) -> None:
    # (90 x 10 + 100 x 20 + 10 x 100) / 200 points
    gaps = calibration.overconfidence(metrics.reliability)
    assert list(gaps.values()) == pytest.approx([19.5] * 15)
    assert rows_of(metrics)["digits: vit-tiny", "base"].overconfidence == "+19.5"


def test_the_sentence_counts_directions(metrics: Metrics, tmp_path: Path) -> None:
    assert calibration.sentence(metrics) == (
        "Over all students and scores: label_smoothing better in 9; tf_reg unclear in 9; kd worse in 9; "
        "self_kd unclear in 9."
    )
    assert calibration.sentence(read_metrics(samples.write(tmp_path / "old"))) == ""


def test_by_nll_on_the_first_screen(metrics: Metrics) -> None:
    assert calibration.likelihood(metrics).endswith(
        "Scratch: better with label_smoothing; worse with kd; unclear with tf_reg and self_kd. "
        "No margin was declared for it."
    )
    judged = metrics.comparisons.assign(metric="nll")
    assert calibration.likelihood(replace(metrics, comparisons=judged)) == ""
    rows = [
        ("scratch", "a", "kd", "better"), ("scratch", "b", "kd", "equivalent"), ("pretrained", "a", "kd", "worse"),
        ("pretrained", "a", "tf_reg", "worse"), ("scratch", "a", "tf_reg", "unclear"),
    ]  # fmt: skip
    described: dict[str, Any] = {
        "task": "t",
        "metric": "nll",
        "difference": 0.1,
        "ci_low": 0.0,
        "ci_high": 0.2,
        "margin": 0.05,
        "note": "",
    }
    keys = ("init", "student", "regularizer", "direction")
    frame = tabulate(
        CalibrationRow, [CalibrationRow(**described, **dict(zip(keys, row, strict=True))) for row in rows]
    )
    assert calibration.likelihood(replace(metrics, calibration=frame)) == (
        "Scratch: better with kd in 1 of 2; equivalent with kd in 1 of 2; unclear with tf_reg. "
        "Pretrained: worse with kd and tf_reg. The margin is 0.05 nats."
    )


def test_a_diagram_per_student_without_the_smallest_bins(metrics: Metrics) -> None:
    drawn = calibration.diagrams(metrics)
    assert [drawing.title for drawing in drawn] == [
        *("bbc-headlines: bert-tiny", "bbc-headlines: bert-tiny-scratch", "digits: vit-tiny")
    ]
    assert "base 15.3 points above" in drawn[0].alt  # (90 x 10 + 100 x 20) / 190
    (values,) = (data["values"] for data in _data(drawn[0].spec) if len(data["values"]) > 2)
    assert {value["rows"] for value in values} == {90, 100}
    alt.Chart.from_dict(drawn[0].spec)  # raises SchemaValidationError


def _data(spec: dict) -> list[dict]:
    return [{"values": values} for values in spec.get("datasets", {}).values()] + [
        layer["data"] for layer in spec["layer"] if "values" in layer.get("data", {})
    ]


def test_without_reliability_csv_there_is_no_diagram(tmp_path: Path) -> None:
    metrics = read_metrics(samples.write(tmp_path))
    assert calibration.diagrams(metrics) == []
    assert rows_of(metrics)["digits: vit-tiny", "base"].overconfidence == "–"
