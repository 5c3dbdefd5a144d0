"""Folders of images: what is a row, in what order, and what each refusal says."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.errors import TaskError
from kdcache.modelling.encoding import from_png
from kdcache.study import Task
from kdcache.tasks import image_files
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.rows import Loaded
from kdcache.tasks.sources import load_source
from tests.tasks.test_images import png


def grey(level: int) -> bytes:
    return png([[level, level], [level, level]])


def write(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content or grey(7))
    return path


def task(folder: Any, **changes: Any) -> Task:
    given = {"source": {"folder": folder}, "image": "image", "metrics": ["accuracy"]}
    return Task.model_validate({**given, **changes})


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Two classes with two images in train, one in validation."""
    folder = tmp_path / "birds"
    for level, name in enumerate(
        ("train/owl/1.png", "train/owl/2.PNG", "train/wren/1.png", "train/wren/3.Jpeg")
    ):
        write(folder / name, png([[level, level]], form="JPEG") if name.endswith("Jpeg") else grey(level))
    write(folder / "validation/owl/9.png", grey(90))
    write(folder / "validation/wren/9.bmp", png([[91, 91]], form="BMP"))
    return folder


def rows(loaded: Loaded, split: str = "train") -> list[tuple[str, str]]:
    """(class, file name) of every row."""
    batches = [batch.column("image").to_pylist() for batch in loaded.splits[split].batches()]
    names = [Path(value["path"]).name for batch in batches for value in batch]
    return list(zip(loaded.splits[split].label.to_pylist(), names, strict=True))


def refusal(message: str, folder: Any, **changes: Any) -> None:
    with pytest.raises(TaskError, match=message):
        load_source(task(folder, **changes))


def test_rows_are_the_files_of_the_classes_in_the_order_of_names(birds: Path) -> None:
    loaded = load_source(task(str(birds)))
    assert rows(loaded) == [("owl", "1.png"), ("owl", "2.PNG"), ("wren", "1.png"), ("wren", "3.Jpeg")]
    assert rows(loaded, "validation") == [("owl", "9.png"), ("wren", "9.bmp")]
    assert loaded.resolved["folder"]["train"] == {"folder": (birds / "train").as_posix(), "images": 4}


def test_a_folder_for_each_split_and_unlabelled_images(birds: Path, tmp_path: Path) -> None:
    write(tmp_path / "pool" / "b.png")
    write(tmp_path / "pool" / "a.png")
    folders = {"train": str(birds / "train"), "validation": str(birds / "validation")}
    loaded = load_source(
        task({**folders, "held": str(birds / "train"), "unlabelled": str(tmp_path / "pool")})
    )
    assert list(loaded.splits) == ["train", "validation", "held", "unlabelled"]
    assert rows(loaded, "held") == rows(loaded)
    assert rows(loaded, "unlabelled") == [(None, "a.png"), (None, "b.png")]


def test_a_prepared_folder_has_the_pixels_of_its_files(birds: Path, tmp_path: Path) -> None:
    card = prepare_task(task(str(birds)), tmp_path / "out")
    assert card.label_names == ["owl", "wren"]
    assert card.rows == {"train": 4, "validation": 2}
    assert card.class_counts == {"train": [2, 2], "validation": [1, 1]}
    images = PreparedTask(tmp_path / "out").rows("train", columns=["image"]).column("image").to_pylist()
    assert [np.asarray(from_png(image)).flat[0] for image in images] == [0, 1, 2, 3]


def test_where_the_folder_lies_is_no_part_of_the_rows(birds: Path, tmp_path: Path) -> None:
    one = prepare_task(task(str(birds)), tmp_path / "out")
    moved = birds.rename(tmp_path / "elsewhere")
    assert prepare_task(task(str(moved)), tmp_path / "other").fingerprint == one.fingerprint


def test_what_systems_leave_is_no_row(birds: Path) -> None:
    before = rows(load_source(task(str(birds))))
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._1.png"):
        write(birds / "train" / "owl" / name, b"litter")
        write(birds / "train" / name, b"litter")
    write(birds / "train" / ".ipynb_checkpoints" / "1.png")
    write(birds / "train" / "__MACOSX" / "1.png")
    assert rows(load_source(task(str(birds)))) == before


def test_files_of_one_stem_are_two_rows(birds: Path) -> None:
    write(birds / "train" / "owl" / "1.jpg", png([[1]], form="JPEG"))
    assert rows(load_source(task(str(birds))))[:2] == [("owl", "1.jpg"), ("owl", "1.png")]


def test_accents_apart_or_not_are_one_class(birds: Path) -> None:
    """macOS keeps "é" as two characters: with train from there and validation from elsewhere, the class is one."""
    apart, whole = unicodedata.normalize("NFD", "mésange"), unicodedata.normalize("NFC", "mésange")
    write(birds / "train" / apart / "1.png")
    write(birds / "validation" / whole / "1.png")
    loaded = load_source(task(str(birds)))
    assert rows(loaded)[0] == (whole, "1.png") == rows(loaded, "validation")[0]


def test_classes_that_are_numbers_count_by_value(birds: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for name in ("owl", "wren"):
            target = birds / split / ("10" if name == "owl" else "2")
            (birds / split / name).rename(target)
    assert prepare_task(task(str(birds)), tmp_path / "out").label_names == ["2", "10"]


def test_links_are_followed_to_files_and_classes(birds: Path, tmp_path: Path) -> None:
    """The hub's cache and DVC's are full of links that lead outside."""
    kept = write(tmp_path / "blobs" / "0a1b", grey(5))
    (birds / "train" / "owl" / "3.png").symlink_to(kept)
    write(tmp_path / "finches" / "1.png", grey(6))
    for split in ("train", "validation"):
        (birds / split / "finch").symlink_to(tmp_path / "finches")
    loaded = load_source(task(str(birds)))
    assert ("owl", "3.png") in rows(loaded)
    assert ("finch", "1.png") in rows(loaded)
    (birds / "train" / "owl" / "4.png").symlink_to(tmp_path / "gone")
    refusal(r"train: .*4\.png: leads to a file that does not exist", str(birds))
    (birds / "train" / "owl" / "4.png").unlink()
    (birds / "train" / "owl" / "4.png").symlink_to("4.png")
    refusal(r"train: .*4\.png: cannot be read: .*links", str(birds))


def test_a_link_back_to_the_folder_is_no_class(birds: Path) -> None:
    (birds / "train" / "loop").symlink_to(birds / "train")
    refusal("class loop: has a folder loop", str(birds))


def test_splits_that_are_not_there(birds: Path, tmp_path: Path) -> None:
    refusal("nowhere: the folder does not exist .*working directory", str(tmp_path / "nowhere"))
    refusal("the folder does not exist .*~ is no home folder here", "~/birds")
    refusal("1.png: is a file; expected a folder", str(birds / "train" / "owl" / "1.png"))
    (birds / "validation").rename(birds / "val")
    refusal(
        "has no folder 'validation'; the folders in it: train, val; to take 'val' for it, write .*birds/val",
        str(birds),
    )
    refusal(
        "has no folder 'train'; the folders in it: owl, wren; expected train/ and validation/",
        str(birds / "train"),
    )
    refusal(
        "train: .*none: the folder does not exist", {"train": str(birds / "none"), "validation": str(birds)}
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train/readme.txt",
            b"x",
            r"train: .*birds/train: readme\.txt is no folder; expected a folder for each class",
        ),
        ("train/owl/notes.txt", b"x", r"class owl: notes\.txt is not named as an image \(\.png, .*remove it"),
        ("train/owl/plain", b"x", "class owl: plain is not named as an image"),
        ("train/owl/deep/1.png", b"x", "class owl: has a folder deep; expected images alone"),
        ("validation/finch/1.png", b"", "labels that train does not have: finch"),
    ],
)
def test_what_is_no_image_of_a_class(
    birds: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    write(birds / name, content)
    with pytest.raises(TaskError, match=message):
        prepare_task(task(str(birds)), tmp_path / "out")


def test_folders_without_images(birds: Path) -> None:
    (birds / "train" / "finch").mkdir()
    refusal("class finch: there are no images; remove the folder", str(birds))
    (birds / "empty").mkdir()
    message = "train: .*empty: the folder is empty; expected a folder for each class"
    refusal(message, {"train": str(birds / "empty"), "validation": str(birds / "validation")})


def test_files_that_are_no_images_are_named(birds: Path, tmp_path: Path) -> None:
    write(birds / "train" / "owl" / "2.PNG", b"not a picture")
    with pytest.raises(
        TaskError, match=r"row 1: .*owl/2\.PNG: cannot be decoded \(13 bytes\): is none of PNG"
    ):
        prepare_task(task(str(birds)), tmp_path / "out")
    write(birds / "train" / "owl" / "2.PNG", grey(1)[:45])
    with pytest.raises(TaskError, match=r"row 1: .*owl/2\.PNG: cannot be decoded"):
        prepare_task(task(str(birds)), tmp_path / "out")
    (birds / "train" / "owl" / "2.PNG").write_bytes(b"")
    refusal(r"class owl: .*2\.PNG: the file is empty", str(birds))


def test_pipes_and_files_larger_than_any_image(birds: Path) -> None:
    os.mkfifo(birds / "train" / "owl" / "pipe.png")
    refusal(r"pipe\.png: is a pipe, socket or device; expected an image file", str(birds))
    (birds / "train" / "owl" / "pipe.png").unlink()
    with (birds / "train" / "owl" / "huge.png").open("wb") as file:
        file.truncate(image_files.LARGEST + 1)  # a hole: it takes no room
    refusal(r"huge\.png: has 536,870,913 bytes, more than 536,870,912; make it smaller", str(birds))


def test_a_name_that_is_no_text(birds: Path) -> None:
    try:
        (Path(os.fsdecode(bytes(birds / "train" / "owl") + b"/\xff.png"))).write_bytes(grey(1))
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    refusal(r"the name '.udcff\.png' is not in UTF-8; rename it", str(birds))


def test_large_files_come_few_at_a_time(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "TOGETHER", 1)
    sizes = [batch.num_rows for batch in load_source(task(str(birds))).splits["train"].batches()]
    assert sizes == [1, 1, 1, 1]
