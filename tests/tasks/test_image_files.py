"""Images that a column names: paths count from the file, and each failure says of which row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import TaskError
from kdcache.modelling.encoding import from_png
from kdcache.study import Task
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.sources import load_source
from tests.tasks.files import parquet
from tests.tasks.test_images import png

NAMES, LABELS = ["pictures/a.png", "pictures/b b.JPG"], ["x", "y"]


def task(path: Path) -> Task:
    files = {"train": str(path), "validation": str(path)}
    return Task.model_validate({"source": {"files": files}, "image": "file", "metrics": ["accuracy"]})


def listed(folder: Path, suffix: str, names: list[Any], labels: list[str]) -> Path:
    """A file of that kind with the columns `file` and `label`."""
    path = folder / f"rows{suffix}"
    if suffix == ".parquet":
        return parquet(path, {"file": names, "label": labels})
    rows = list(zip(names, labels, strict=True))
    if suffix == ".csv":
        path.write_text("file,label\n" + "".join(f"{name},{label}\n" for name, label in rows), "utf-8")
    else:
        path.write_text("".join(json.dumps({"file": name, "label": label}) + "\n" for name, label in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set" / "pictures").mkdir(parents=True)
    (tmp_path / "set" / "pictures" / "a.png").write_bytes(png([[1, 2]]))
    (tmp_path / "set" / "pictures" / "b b.JPG").write_bytes(png([[9]], form="JPEG"))
    return tmp_path / "set"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_paths_count_from_the_file(folder: Path, suffix: str, tmp_path: Path) -> None:
    card = prepare_task(task(listed(folder, suffix, NAMES, LABELS)), tmp_path / "out")
    assert card.label_names == ["x", "y"]
    images = PreparedTask(tmp_path / "out").rows("train", columns=["image"]).column("image").to_pylist()
    assert [from_png(image).tolist() for image in images] == [[[1, 2]], [[9]]]


def test_whole_paths_paths_upwards_and_objects_with_a_path(folder: Path, tmp_path: Path) -> None:
    above = tmp_path / "above.png"
    above.write_bytes(png([[3]]))
    names = [str(folder / "pictures" / "a.png"), "../above.png"]
    assert prepare_task(task(listed(folder, ".csv", names, LABELS)), tmp_path / "out").rows["train"] == 2
    named = [{"path": name} for name in names]
    assert prepare_task(task(listed(folder, ".jsonl", named, LABELS)), tmp_path / "out").rows["train"] == 2


def test_numbers_in_json_lines_are_images_still(folder: Path, tmp_path: Path) -> None:
    rows = listed(folder, ".jsonl", [[[0, 255]], [[7, 7]]], LABELS)
    assert prepare_task(task(rows), tmp_path / "out").image_size == (1, 2)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "pictures/c.png",
            r"row 1: .*set/pictures/c\.png: the file does not exist \(pictures/c\.png counts from .*set\)",
        ),
        ("", "row 1: the image is missing; remove this row"),
        ("https://a.b/c.png", r"row 1: https://a\.b/c\.png is an address; download the image"),
        ("pictures", "row 1: .*pictures: is a folder; expected an image file"),
        ("x" * 300 + ".png", "row 1: .*cannot be read: File name too long"),
    ],
)
def test_what_a_path_may_not_be(folder: Path, suffix: str, name: str, message: str) -> None:
    with pytest.raises(TaskError, match=rf"train: .*rows{suffix}: image column 'file', {message}"):
        load_source(task(listed(folder, suffix, [NAMES[0], name], LABELS)))


def test_a_missing_path_in_json_lines(folder: Path) -> None:
    with pytest.raises(TaskError, match="row 1: the image is missing"):
        load_source(task(listed(folder, ".jsonl", [NAMES[0], None], LABELS)))


def test_an_image_that_is_removed_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = task(listed(folder, ".csv", NAMES, LABELS))
    loaded = load_source(rows)
    monkeypatch.setattr("kdcache.tasks.prepare.load_source", lambda _: loaded)
    (folder / "pictures" / "a.png").unlink()
    with pytest.raises(TaskError, match=r"row 0: holds only a path, which cannot be read: .*a\.png"):
        prepare_task(rows, tmp_path / "out")


@pytest.mark.parametrize("name", ["x" * 9000, "a/" * 4000, "../" * 4000 + "x"])
def test_a_path_that_no_file_can_have_is_cut_in_the_message(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskError, match=r"row 0: .*\.\.\.") as refused:
        load_source(task(listed(tmp_path, ".csv", [name, NAMES[1]], LABELS)))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".jsonl", "path"),
        (".jsonl", "bytes and path"),
        (".parquet", "path"),
        (".parquet", "bytes and path"),
        (".parquet", "some bytes"),  # JSON has none
    ],
)
def test_a_path_without_bytes_counts_from_the_file_too(
    folder: Path, suffix: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png([[200, 201]]))  # the wrong one
    monkeypatch.chdir(tmp_path)
    images: list[dict[str, Any]] = [{"path": "pictures/a.png"}, {"path": "pictures/a.png"}]
    if kind != "path":
        images = [{"bytes": None, **image} for image in images]
    if kind == "some bytes":
        images[1] = {"bytes": png([[1, 2]]), "path": "elsewhere.png"}
    prepare_task(task(listed(folder, suffix, images, LABELS)), tmp_path / "out")
    kept = PreparedTask(tmp_path / "out").rows("train", columns=["image"]).column("image").to_pylist()
    assert [from_png(image).tolist() for image in kept] == [[[1, 2]], [[1, 2]]]


def test_what_the_path_of_one_row_may_not_be(folder: Path, tmp_path: Path) -> None:
    images = [{"bytes": png([[1, 2]]), "path": None}, {"bytes": None, "path": "no.png"}]
    with pytest.raises(
        TaskError, match=r"image column 'file', row 1: .*set/no\.png: the file does not exist"
    ):
        prepare_task(task(listed(folder, ".parquet", images, LABELS)), tmp_path / "out")
