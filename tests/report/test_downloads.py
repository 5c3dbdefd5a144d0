"""The files inside the page are the files of the folder."""

import base64
from pathlib import Path

import pytest

from kdcache.report import downloads
from kdcache.results import reading
from kdcache.results.reading import read_metrics
from tests.report import samples


def test_every_file_comes_back_as_it_is(tmp_path: Path) -> None:
    folder = samples.write_all(tmp_path)
    found = downloads.downloads(read_metrics(folder))
    assert {file.name for file in found} == {path.name for path in folder.iterdir()}
    for file in found:
        assert base64.b64decode(file.address.split(",")[1]) == (folder / file.name).read_bytes()


def test_every_file_that_a_report_is_made_from_is_known() -> None:
    tables = {f"{name}.csv" for name in (*reading.NEEDED, *reading.OPTIONAL)}
    assert set(downloads.HOLDS) == tables | {reading.SUMMARY, reading.PROVENANCE}


def test_a_large_file_is_named_and_not_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "LARGEST", 5000)
    found = {file.name: file for file in downloads.downloads(read_metrics(samples.write(tmp_path)))}
    assert found["trials.csv"].address == ""
    assert found["summary.json"].address
    assert "examples.csv" not in found
