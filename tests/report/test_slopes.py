"""Slopes: one chart a pair of students, one axis a task, pools and missing gains left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import pytest

from kdcache.report import slopes
from kdcache.results.reading import Metrics, read_metrics
from tests.report import samples

KD = samples.interaction()[0]


def with_rows(tmp_path: Path, *rows: dict[str, Any]) -> Metrics:
    return replace(read_metrics(samples.write(tmp_path)), summary={"interaction": list(rows)})


def test_only_pairs_are_drawn(tmp_path: Path) -> None:
    (drawing,) = slopes.diagrams(read_metrics(samples.write(tmp_path)))  # KD's pair, and a pool of it
    assert drawing.title == "bbc-headlines: bert-tiny and bert-tiny-scratch"
    assert drawing.alt.endswith("kd +0.45 and +2.40, +1.95 more from scratch, supported.")
    alt.Chart.from_dict(drawing.spec)  # raises SchemaValidationError


def test_a_regularizer_without_a_gain_and_the_mean_of_all_are_left_out(tmp_path: Path) -> None:
    unknown = KD | {"regularizer": "tf_reg", "gain_scratch": None, "interaction": None}
    assert slopes.diagrams(with_rows(tmp_path, unknown, KD | {"regularizer": "all"})) == []


def test_charts_of_one_task_share_their_axis(tmp_path: Path) -> None:
    low = KD | {"scratch": "x", "pretrained": "y", "gain_scratch": -1.0, "gain_pretrained": 0.0}
    other = KD | {"task": "digits", "gain_scratch": 0.1, "gain_pretrained": 0.0}
    found = [_domain(drawing.spec) for drawing in slopes.diagrams(with_rows(tmp_path, KD, low, other))]
    # gains from -1 to 2.4 and 8% more on either side; from 0 to 0.1
    assert found == [pytest.approx((-1.272, 2.672))] * 2 + [pytest.approx((-0.008, 0.108))]


def _domain(spec: dict[str, Any]) -> tuple[float, float]:
    low, high = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    return low, high
