"""The README's results: only what stands between the markers changes."""

from pathlib import Path

import pytest

from kdcache.errors import ComparisonError
from kdcache.results.reading import read_metrics
from tests.report import samples
from tools import readme_results

BEGIN, END = readme_results.markers("results")


def committed(folder: Path, readme: str) -> Path:
    """A study as it lies in results/."""
    samples.write(folder / "metrics")
    (folder / "params.yaml").write_text(samples.PARAMS)
    (folder / "README.md").write_text(readme)
    return folder


def test_only_the_text_between_the_markers_changes(tmp_path: Path) -> None:
    folder = committed(tmp_path / "mine", f"before\n{BEGIN}\nold\n{END}\nafter\n")
    page = folder / "README.md"
    assert readme_results.main([str(folder)]) == 0
    first = page.read_text(encoding="utf-8")
    assert first.startswith(f"before\n{BEGIN}\n")
    assert first.endswith(f"{END}\nafter\n")
    assert "\nold\n" not in first
    assert "](figure.png)" in first
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert readme_results.main([str(folder)]) == 0
    assert page.read_text(encoding="utf-8") == first


def test_without_a_folder_it_is_the_study_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed(tmp_path, "the front page")
    results = tmp_path / "results"
    results.mkdir()
    (results / "README.md").write_text(f"{BEGIN}{END}")
    monkeypatch.chdir(tmp_path)
    assert readme_results.main([]) == 0
    assert "better" in (results / "README.md").read_text(encoding="utf-8")
    assert (results / "figure.png").exists()
    assert (tmp_path / "README.md").read_text() == "the front page"


def test_a_failure_is_one_line_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = committed(tmp_path / "mine", "no markers")
    assert readme_results.main([str(folder)]) == 1
    assert str(folder / "README.md") in capsys.readouterr().err
    assert not (folder / "figure.png").exists()


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
