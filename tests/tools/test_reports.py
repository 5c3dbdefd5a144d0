"""The pages of the committed studies, built by one command."""

from pathlib import Path

import pytest

from tests.report import samples
from tools import reports


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in ("b-study", "a-study"):
        folder = tmp_path / "results" / name
        samples.write(folder / "metrics")
        (folder / "params.yaml").write_text(samples.PARAMS)
    (tmp_path / "results" / "notes").mkdir()
    return tmp_path / "results"


def run(results: Path, *names: str) -> int:
    return reports.main([*names, "--results", str(results), "--out", str(results.parent / "out")])


def test_every_study_gets_a_page(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(results) == 0
    pages = [results.parent / "out" / name / "index.html" for name in ("a-study", "b-study")]
    assert capsys.readouterr().out.split() == [str(page) for page in pages]
    assert all("bert-tiny" in page.read_text(encoding="utf-8") for page in pages)
    assert not (results.parent / "out" / "notes").exists()


def test_one_study_by_its_name(results: Path) -> None:
    assert run(results, "b-study") == 0
    assert [path.name for path in (results.parent / "out").iterdir()] == ["b-study"]


def test_an_unknown_study_is_named_beside_the_known_ones(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(results, "c-study") == 1
    assert capsys.readouterr().err == f"{results}: no study 'c-study'; there are: a-study, b-study\n"


def test_every_committed_study_has_params_metrics_and_a_readme() -> None:
    root = Path(__file__).parents[2] / "results"
    names = reports.committed_studies(root)
    assert names == sorted(path.name for path in root.iterdir() if path.is_dir())
    for name in names:
        assert (root / name / "params.yaml").is_file()
        assert (root / name / "README.md").is_file()
