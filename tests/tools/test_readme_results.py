"""The README's results: only what stands between the markers changes."""

from pathlib import Path

import pytest

from kdcache.errors import ComparisonError
from kdcache.results.reading import read_metrics
from tests.report import samples
from tools import readme_results

BEGIN, END = readme_results.markers("results")


@pytest.mark.parametrize("name", ["results", "families"])
def test_only_the_text_between_the_markers_changes(tmp_path: Path, name: str) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(samples.PARAMS)
    page = tmp_path / "README.md"
    blocks = {key: "{}\nold\n{}\n".format(*readme_results.markers(key)) for key in ("results", "families")}
    page.write_text("before\n" + "between\n".join(blocks.values()) + "after\n")
    before, after = page.read_text().split(blocks[name])
    metrics = samples.write(tmp_path / "metrics")
    command = ["--metrics", str(metrics), "--readme", str(page), "--params", str(params), "--name", name]
    assert readme_results.main(command) == 0
    first = page.read_text(encoding="utf-8")
    begin, end = readme_results.markers(name)
    assert first.startswith(f"{before}{begin}\n")
    assert first.endswith(f"{end}\n{after}")
    assert first.count("\nold\n") == 1
    assert readme_results.main(command) == 0
    assert page.read_text(encoding="utf-8") == first
    assert [figure.name for figure in (tmp_path / "docs").iterdir()] == [f"{name}.png"]


def test_the_figure_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    params, page = tmp_path / "params.yaml", tmp_path / "README.md"
    params.write_text(samples.PARAMS)
    page.write_text("{}\n{}\n".format(*readme_results.markers("results")))
    metrics = samples.write(tmp_path / "metrics")
    files = ["--metrics", str(metrics), "--readme", str(page), "--params", str(params)]
    assert readme_results.main([*files, "--figure", "figure.png"]) == 0
    assert "](figure.png)" in page.read_text(encoding="utf-8")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "docs").exists()


def test_the_table_has_a_line_per_regularizer(tmp_path: Path) -> None:
    table = readme_results.markdown_table(read_metrics(samples.write(tmp_path)), samples.study())
    lines = table.splitlines()
    assert len(lines) == 2 + 5
    assert {line.count("|") for line in lines} == {5}
    assert r"| label\_smoothing |" in table
    assert "| **80.5 ± 0.2**<br>+0.45 [0.15," in table  # better: bold


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", 2 * BEGIN + END])
def test_wrong_markers_are_an_error(text: str) -> None:
    with pytest.raises(ComparisonError, match="results:begin"):
        readme_results.replace_results(text, "new", Path("README.md"))
