"""The section on how much of a teacher must be stored: its sentence, its rows by size, and its chart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt

from kdcache.report import storage
from kdcache.report.page import render
from kdcache.results.reading import Metrics, read_metrics
from tests.report import samples


def row(regularizer: str, size: float | None, difference: float, verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "task": "bbc", "student": "tiny", "regularizer": regularizer, "against": "kd_full", "metric": "nll",
        "margin": 0.01, "mean": 5.2 - difference, "against_mean": 5.2, "difference": difference,
        "ci_low": difference - 0.002, "ci_high": difference + 0.002, "t_p_corrected": 0.001, "tost_p_corrected": 0.002,
        "verdict": verdict, "negligible": False, "stored": f"{regularizer} stored", "bytes_per_token": size,
        "against_bytes": 10485.76, **more,
    }  # fmt: skip


ROWS = [
    row("large", 95.1, -0.001, "equivalent"),
    row("small", 43.1, -0.02, "worse"),
    row("middle", 59.1, 0.004, "equivalent"),
]


def metrics(tmp_path: Path, rows: list[dict[str, Any]]) -> Metrics:
    read = read_metrics(samples.write(tmp_path))
    return replace(read, summary={**read.summary, "storage": rows})


def test_the_smallest_that_is_enough_is_named_and_rows_come_by_size(tmp_path: Path) -> None:
    section = storage.make_section(metrics(tmp_path, ROWS))
    assert section is not None
    assert section.said == [
        "bbc / tiny: of 10,486 bytes a token, 59 bytes are enough (middle stored): the student is shown to be within "
        "0.01 nats of one that learns from every token."
    ]
    assert [line.regularizer for line in section.rows] == ["small", "middle", "large"]
    assert [line.gain for line in section.rows] == ["−0.0200", "+0.0040", "−0.0010"]


def test_where_nothing_is_enough_that_is_said() -> None:
    said = storage.in_a_sentence([ROWS[1], row("other", 20.0, -0.001, "inconclusive")])
    assert said == "bbc / tiny: of 10,486 bytes a token, no smaller cache is shown to be within 0.01 nats."
    better = row("other", 20.0, 0.03, "better")
    assert "20 bytes are enough" in storage.in_a_sentence([ROWS[1], better])


def test_better_is_not_called_within_the_margin() -> None:
    better = row("other", 20.0, 0.2, "better")
    assert storage.in_a_sentence([better]).endswith(
        "shown to be better than one that learns from every token."
    )
    assert "within 0.01 nats of" in storage.in_a_sentence([better | {"negligible": True}])


def test_the_chart_has_a_point_for_every_cache_of_known_size() -> None:
    (drawing,) = storage.diagrams([*ROWS, row("unknown", None, 0.0, "inconclusive")])
    alt.Chart.from_dict(drawing.spec)  # raises SchemaValidationError
    assert "small 43 bytes a token, −0.0200, worse" in drawing.alt
    assert "unknown" not in drawing.alt
    assert storage.diagrams([row("unknown", None, 0.0, "inconclusive")]) == []


def test_a_study_without_such_rows_has_no_section(tmp_path: Path) -> None:
    assert storage.make_section(metrics(tmp_path, [])) is None
    page = render(metrics(tmp_path, ROWS), samples.study(), [])
    assert "How much of a teacher must be stored?" in page
    assert "middle stored" in page
