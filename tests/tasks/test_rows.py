"""Rows as sources give them: what messages call a row, and how many images come at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kdcache.errors import TaskError
from kdcache.study import Task
from kdcache.tasks import rows as rows_module
from kdcache.tasks.prepare import check_source
from kdcache.tasks.sources import load_source
from tests.tasks.files import parquet, task
from tests.tasks.test_images import png

IMAGES: dict[str, Any] = {"text": None, "max_length": None, "image": "image"}


def texts(count: int, **changed: dict[int, Any]) -> dict[str, list[Any]]:
    """Columns of `count` rows, with these values changed: `text={37: ""}`."""
    columns: dict[str, list[Any]] = {
        "text": [f"text {row}" for row in range(count)],
        "label": ["ab"[row % 2] for row in range(count)],
    }
    for column, values in changed.items():
        for row, value in values.items():
            columns[column][row] = value
    return columns


def refused(*files: Any, **changes: Any) -> str:
    given = task(*files, **changes)
    shown = {key: value for key, value in given.model_dump(exclude_unset=True).items() if value is not None}
    with pytest.raises(TaskError) as error:
        check_source(type(given).model_validate(shown))
    return str(error.value)


@pytest.mark.parametrize("drawn", [{}, {"train_size": 39, "sample_seed": 3}])
def test_a_row_is_named_by_its_number_in_its_file(tmp_path: Path, drawn: dict[str, int]) -> None:
    """Also where train_size draws some of the rows. Seed 3 draws all but row 20 of 40, and all but 61 of 80."""
    whole = parquet(tmp_path / "whole.parquet", texts(40))
    empty = parquet(tmp_path / "empty.parquet", texts(40, text={37: ""}))
    missing = parquet(tmp_path / "missing.parquet", texts(40, label={37: None}))
    assert "is empty in 1 row (row 37)" in refused(empty, whole, **drawn)
    assert "the label is missing in 1 row (row 37)" in refused(missing, whole, **drawn)
    if drawn:
        drawn = {**drawn, "train_size": 79}
    assert "is empty in 1 row (row 37 of empty.parquet)" in refused([whole, empty], whole, **drawn)
    assert "is missing in 1 row (row 37 of missing.parquet)" in refused([whole, missing], whole, **drawn)


def test_rows_of_other_labels_are_named_too(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "whole.parquet", texts(8))
    blank = parquet(tmp_path / "blank.parquet", texts(8, label={5: " "}))
    assert "an empty text in 1 row (row 5 of blank.parquet)" in refused([whole, blank], whole)
    numbers = parquet(tmp_path / "numbers.parquet", {"text": ["a", "b"], "label": [0.5, 1.5]})
    infinite = parquet(tmp_path / "infinite.parquet", {"text": ["c"], "label": [float("inf")]})
    message = refused([numbers, infinite], numbers, metrics=["pearson"])
    assert "NaN or infinite in 1 row (row 0 of infinite.parquet)" in message
    hidden = parquet(tmp_path / "hidden.parquet", {"text": ["a", "b", "c"], "label": [0, 1, -1]})
    known = parquet(tmp_path / "known.parquet", {"text": ["a", "b"], "label": [0, 1]})
    assert "the label is -1 in 1 row (row 2 of hidden.parquet)" in refused([known, hidden], known)


def test_an_image_is_named_by_its_number_in_its_file(tmp_path: Path) -> None:
    images = [png([[row]]) for row in range(8)]
    columns = {"image": images, "label": ["ab"[row % 2] for row in range(8)]}
    whole = parquet(tmp_path / "whole.parquet", columns)
    columns["image"] = [*images[:5], b"damaged", *images[6:]]
    bad = parquet(tmp_path / "bad.parquet", columns)
    assert "row 5: cannot be decoded" in refused(bad, whole, **IMAGES)
    assert "row 5 of bad.parquet: cannot be decoded" in refused([whole, bad], whole, **IMAGES)


@pytest.mark.parametrize("together", [200_000, 100])
def test_large_embedded_images_come_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """As many as TOGETHER bytes need, at least FEW; small ones come BATCH at a time."""
    monkeypatch.setattr(rows_module, "TOGETHER", together)
    monkeypatch.setattr(rows_module, "FEW", 4)
    monkeypatch.setattr(rows_module, "BATCH", 16)
    images = [png([[row]]) for row in range(30)]
    path = parquet(tmp_path / "a.parquet", {"image": images, "label": ["a", "b"] * 15})
    given = {"source": {"files": {"train": str(path), "validation": str(path)}}, "metrics": ["accuracy"]}
    spec = Task.model_validate({**given, "image": "image"})
    batches = list(load_source(spec).splits["train"].batches())
    sizes = [batch.num_rows for batch in batches]
    assert pa.concat_tables(batches)["image"].to_pylist() == images
    assert sizes == ([16, 14] if together > 100 else [4] * 7 + [2])
