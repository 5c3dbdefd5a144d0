"""What the figure shows: which students share a panel, and the axis."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from kdcache.report import charts
from kdcache.results.reading import Metrics, read_metrics
from tests.report import samples


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return read_metrics(samples.write(tmp_path))


def test_scratch_stands_beside_pretrained(metrics: Metrics) -> None:
    both, alone = charts.panels(metrics, 0.95)
    assert both.students == ["bert-tiny", "bert-tiny-scratch"]
    assert alone.students == ["vit-tiny"]


def test_the_axis_holds_every_interval_and_the_margin(metrics: Metrics) -> None:
    both, alone = charts.panels(metrics, 0.95)
    # bbc-headlines: from −3.30 (tf_reg) to 3.50 (kd), 3% of 6.8 added on each side
    assert both.domain == pytest.approx((-3.504, 3.704))
    # digits: the margin of 1 with 30% more on the left, kd's 1.70 on the right, 3% of 3.0
    assert alone.domain == pytest.approx((-1.39, 1.79))


def test_the_alternative_text_has_the_numbers(metrics: Metrics) -> None:
    text = charts.panels(metrics, 0.95)[0].alt.replace("\N{NO-BREAK SPACE}", " ")
    assert "95% interval" in text
    assert "kd on bert-tiny-scratch (scratch) +2.40 points, [1.30, 3.50], better" in text


def test_one_seed_has_a_point_and_no_interval(metrics: Metrics) -> None:
    metrics.comparisons.loc[:, ["ci_low", "ci_high"]] = float("nan")
    record = charts._records(charts.panels(metrics, 0.95)[0].rows)[0]
    assert (record["ci_low"], record["interval"], record["difference"]) == (None, "no interval", 0.1)


def test_static_files(metrics: Metrics, tmp_path: Path) -> None:
    spec = charts.static_figure(charts.panels(metrics, 0.95), "1 point")
    charts.write_static(spec, tmp_path / "a.svg", tmp_path / "a.png")
    svg = (tmp_path / "a.svg").read_text()
    assert svg.startswith("<svg")
    assert "inconclusive" in svg
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_of_many_panels_has_half_the_pixels_each_way(
    metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = charts.static_figure(charts.panels(metrics, 0.95), "1 point")
    charts.write_static(spec, None, tmp_path / "dense.png")
    monkeypatch.setattr(charts, "MOST_DENSE", 1)
    charts.write_static(spec, None, tmp_path / "plain.png")
    dense, plain = (Image.open(tmp_path / f"{name}.png").size for name in ("dense", "plain"))
    assert dense == (2 * plain[0], 2 * plain[1])


def test_the_static_figure_names_every_regularizer_beside_its_marks(metrics: Metrics, tmp_path: Path) -> None:
    panels = charts.panels(metrics, 0.95)
    svg = tmp_path / "figure.svg"
    charts.write_static(charts.static_figure(panels, "1 point"), svg, None)
    drawn = svg.read_text()
    for name in {row.regularizer for panel in panels for row in panel.rows.itertuples()}:
        assert f">{name}</text>" in drawn


def test_the_chart_is_valid_vega_lite(metrics: Metrics) -> None:
    for panel in charts.panels(metrics, 0.95):
        charts.chart(panel).to_dict(validate=True)  # raises SchemaValidationError


def test_the_legend_names_only_the_students_that_there_are(metrics: Metrics) -> None:
    panels = charts.panels(metrics, 0.95)
    assert charts.inits(panels) == ["pretrained", "scratch"]
    scratch = metrics.comparisons[metrics.comparisons["init"] == "scratch"]
    alone = charts.panels(replace(metrics, comparisons=scratch), 0.95)
    assert charts.inits(alone) == ["scratch"]
    subtitle = charts.static_figure(alone, "1 point")["title"]["subtitle"]
    assert (
        subtitle
        == "orange diamond: from scratch; hollow: inconclusive; shaded: within 1 point of the baseline"
    )


def test_no_method_looks_like_another_or_like_the_baseline() -> None:
    colours, shapes = charts.method_scales([f"m{n}" for n in range(40)])
    looks = list(zip(colours.to_dict()["range"], shapes.to_dict()["range"], strict=True))
    assert len(set(looks)) == 40
    assert [colour for colour, _ in looks].count(looks[0][0]) == 1
