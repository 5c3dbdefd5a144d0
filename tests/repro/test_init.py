"""`kdcache init`: the project it writes, held against this repository's own pipeline, and what it refuses."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from kdcache.cli.named import find_mistakes
from kdcache.errors import KdcacheError, TaskError
from kdcache.repro import code_lock, init, own_data, template
from kdcache.study import load_study
from kdcache.study.settled import read_settled

ROOT = Path(__file__).parents[2]
PIPELINE: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())


@pytest.fixture(autouse=True)
def without_repositories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Git and DVC take seconds to start; one test has them."""
    monkeypatch.setattr(init, "_make_repositories", lambda folder: None)


def written(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load((folder / name).read_text())
    return content


def put_rows(folder: Path, rows: int = 40) -> tuple[Path, Path]:
    """Two CSV files of texts of 3 and of 30 words, in two classes."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["text", "other", "mood"])
            lines.writerows(("good day " * (15 if i % 2 else 1), "x", "ab"[i % 2]) for i in range(rows))
    return folder / "train.csv", folder / "validation.csv"


def test_the_pipeline_is_this_repository_s_with_hashes_in_place_of_source_files(tmp_path: Path) -> None:
    init.start_project(tmp_path / "p")
    made = written(tmp_path / "p", "dvc.yaml")
    for name, stage in made["stages"].items():
        (hashes,) = [one for one in stage["params"] if isinstance(one, dict)]
        stage["params"].remove(hashes)
        if not stage["params"]:
            del stage["params"]  # the hashes were all of it
        folders = [f"kdcache/{one.removeprefix('code.').replace('_', '/')}" for one in hashes["kdcache.yaml"]]
        stage["deps"] = [*folders, *stage.get("deps", [])]
        ours = PIPELINE["stages"][name]
        assert sorted(stage["deps"]) == sorted(ours["deps"])
        assert {**stage, "deps": None} == {**ours, "deps": None}
    assert {**made, "stages": None} == {**PIPELINE, "stages": None}


def test_the_stages_and_the_default_study_are_this_repository_s(tmp_path: Path) -> None:
    init.start_project(tmp_path)
    ours = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    assert written(tmp_path, "params.yaml") == {**ours, "seeds": ours["seeds"]["count"]}
    assert read_settled(tmp_path / "settle.json").seeds == {}
    modules = sorted(path.name for path in (ROOT / "stages").glob("*.py"))
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == modules
    for name in modules:
        assert (tmp_path / "stages" / name).read_bytes() == (ROOT / "stages" / name).read_bytes()


@pytest.mark.parametrize(
    ("kind", "tasks", "models"),
    [
        ("default", ["bbc-headlines", "digits"], ["bert-micro", "bert-small", "resnet-tiny", "vit-tiny"]),
        ("text", ["bbc-headlines"], ["bert-micro", "bert-small"]),
        ("images", ["digits"], ["resnet-tiny", "vit-tiny"]),
        ("language-model", ["bbc-articles"], ["gpt2-small", "gpt2-tiny"]),
        ("paper", ["cola", "sst2", "mrpc", "qnli", "rte"], []),
    ],
)
def test_every_template_is_a_study_without_mistakes(
    tmp_path: Path, kind: init.Template, tasks: list[str], models: list[str]
) -> None:
    init.start_project(tmp_path, kind)
    assert list(load_study(tmp_path / "params.yaml").tasks) == tasks
    assert re.search(r"^ *# `keep: all` in a student", (tmp_path / "params.yaml").read_text(), re.MULTILINE)
    assert sorted(path.name for path in (tmp_path / "data/models").iterdir() if path.is_dir()) == models


def test_a_task_of_one_s_own(tmp_path: Path) -> None:
    data = own_data.Texts(*put_rows(tmp_path / "from"), text=["text"], label="mood")
    said = init.start_project(tmp_path / "reviews", data=data)
    study = load_study(tmp_path / "reviews/params.yaml")
    assert list(study.tasks) == ["reviews"]
    assert study.tasks["reviews"].source.files == {
        "train": "data/train.csv",
        "validation": "data/validation.csv",
    }
    assert study.tasks["reviews"].max_length == 40  # 30 words and two marks, in steps of 8
    assert {student.tasks for student in study.students.values()} == {None}
    assert study.tuning is not None
    assert study.tuning.teachers is not None  # how long to train a teacher on these rows is not known
    assert (tmp_path / "reviews/data/train.csv").read_bytes() == data.train.read_bytes()
    assert "40 and 40 rows, 2 classes" in (tmp_path / "reviews/params.yaml").read_text()
    assert any("kdcache settle" in line for line in said)
    assert any("kdcache student reviews bert-micro kd --out DIR" in line for line in said)
    assert written(tmp_path / "reviews", "dvc.yaml")["stages"]["prepare"]["deps"] == [
        "data/train.csv",
        "data/validation.csv",
    ]


@pytest.mark.parametrize("folder", ["2024-06-01", "2024", "na", "on", "a b"])
def test_a_folder_whose_name_is_no_name_of_a_task(tmp_path: Path, folder: str) -> None:
    init.start_project(tmp_path / folder, data=own_data.Texts(*put_rows(tmp_path / "from"), ["text"], "mood"))
    assert list(load_study(tmp_path / folder / "params.yaml").tasks) == ["mine"]


def test_texts_that_are_numbers_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        rows = "".join(f'{{"text": {i}, "label": {i % 2}}}\n' for i in range(40))
        (tmp_path / f"{split}.jsonl").write_text(rows)
    data = own_data.Texts(tmp_path / "train.jsonl", tmp_path / "validation.jsonl", ["text"], "label")
    with pytest.raises(TaskError, match="train: text column 'text' holds int64, expected strings"):
        init.start_project(tmp_path / "p", data=data)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ("good,a\nbad,b\nfine,a\nnone,\n", "x,a\ny,b\n", r"train: the label is missing in 1 row"),
        ("good,a\nbad,b\n,a\nfine,b\n", "x,a\ny,b\n", r"text column 'text' is empty in 1 row"),
        ("good,a\nbad,b\nfine,a\nevil,b\n", "x,0\ny,1\n", r"validation: labels that train does not have: 0, 1"),
        ("good,1\nbad,2\nfine,1\nevil,2\n", "x,1\ny,7\n", r"labels that train does not have: 7.*\(label: mood\)"),
    ],
)  # fmt: skip
def test_rows_that_prepare_would_refuse_are_named_and_nothing_is_written(
    tmp_path: Path, train: str, validation: str, message: str
) -> None:
    (tmp_path / "train.csv").write_text(f"text,mood\n{train}")
    (tmp_path / "validation.csv").write_text(f"text,mood\n{validation}")
    data = own_data.Texts(tmp_path / "train.csv", tmp_path / "validation.csv", ["text"], "mood")
    with pytest.raises(TaskError, match=message):
        init.start_project(tmp_path / "p", data=data)
    assert not (tmp_path / "p").exists()


def test_a_folder_with_a_space_can_be_entered_as_it_is_printed(tmp_path: Path) -> None:
    said = init.start_project(tmp_path / "my study", "text")
    entered = next(line for line in said if line.startswith("  cd "))
    shown = subprocess.run(["bash", "-c", f"{entered} && pwd"], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(tmp_path / "my study")


@pytest.mark.parametrize("name", [".gitignore", ".dvcignore"])
@pytest.mark.parametrize("own", ["", "*.secret\n", "*.secret", "/.kdcache/\n*.pyc\n"])
def test_a_repository_keeps_its_ignore_rules_and_gets_those_it_lacks(
    tmp_path: Path, name: str, own: str
) -> None:
    fresh, old = tmp_path / "fresh", tmp_path / "old"
    old.mkdir()
    (old / name).write_text(own)
    for folder in (fresh, old):
        init.start_project(folder)
    lines = (old / name).read_text().splitlines()
    assert lines[: len(own.splitlines())] == own.splitlines()
    wanted = {line for line in (fresh / name).read_text().splitlines() if not line.startswith("#")} - {""}
    assert wanted <= set(lines)
    assert len(lines) == len(set(lines))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "place", ["data/train.csv", "data/models/bert-micro/config.json", ".dvc/plots/gains.json"]
)
def test_a_file_with_other_content_is_named_and_nothing_is_written(tmp_path: Path, place: str) -> None:
    data = own_data.Texts(*put_rows(tmp_path / "from"), text=["text"], label="mood")
    (tmp_path / "p" / place).parent.mkdir(parents=True)
    (tmp_path / "p" / place).write_text("mine")
    with pytest.raises(KdcacheError, match=f"p/{re.escape(place)}: has other content .*; move it away"):
        init.start_project(tmp_path / "p", data=data)
    assert everything(tmp_path / "p") == {place: b"mine"}


def test_a_model_that_images_would_change_is_named(tmp_path: Path) -> None:
    """The template's own file is another one, as soon as it has been fitted to the images."""
    place = "data/models/vit-tiny/config.json"
    (tmp_path / "p" / place).parent.mkdir(parents=True)
    shutil.copy(ROOT / place, tmp_path / "p" / place)
    folder = put_images(tmp_path / "photos", 20, colour=True)
    with pytest.raises(KdcacheError, match=r"vit-tiny/config\.json: has other content"):
        init.start_project(tmp_path / "p", data=own_data.Images(folder))
    assert list(everything(tmp_path / "p")) == [place]


@pytest.mark.parametrize("place", ["data", "data/models", ".dvc/plots"])
def test_a_file_in_a_folder_s_place_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "p" / place).parent.mkdir(parents=True)
    (tmp_path / "p" / place).write_text("mine")
    with pytest.raises(
        KdcacheError, match=f"p/{place}: expected a folder for .*, found a file; move it away"
    ):
        init.start_project(tmp_path / "p", "text")
    assert everything(tmp_path / "p") == {place: b"mine"}


def test_what_is_there_already_with_the_same_content_stays(tmp_path: Path) -> None:
    train, validation = put_rows(tmp_path / "p" / "data")
    place = "data/models/bert-micro/config.json"
    (tmp_path / "p" / place).parent.mkdir(parents=True)
    shutil.copy(ROOT / place, tmp_path / "p" / place)
    before = everything(tmp_path / "p")
    init.start_project(tmp_path / "p", data=own_data.Texts(train, validation, text=["text"], label="mood"))
    assert before.items() <= everything(tmp_path / "p").items()
    assert (tmp_path / "p/data/models/bert-micro/model.safetensors").is_file()


@pytest.mark.parametrize("name", [".gitignore", ".dvcignore"])
def test_rules_that_are_no_utf_8_stay_as_they_are(tmp_path: Path, name: str) -> None:
    own = b"caf\xe9/\r\n*.log\r\n"
    (tmp_path / name).write_bytes(own)
    init.start_project(tmp_path, "images")
    now = (tmp_path / name).read_bytes()
    assert now.startswith(own + b"# kdcache\n")
    assert b"\n__pycache__" in now


def test_a_folder_in_place_of_the_rules_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").mkdir()
    with pytest.raises(KdcacheError, match=r"\.gitignore: expected a file, found a folder"):
        init.start_project(tmp_path, "images")
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]


@pytest.mark.parametrize("rows", [40, 3000, 6001])
def test_the_length_is_that_of_texts_of_all_the_file(tmp_path: Path, rows: int) -> None:
    """The file is sorted: all short texts come first, and 100 in 3,000 are long."""
    for split in ("train", "validation"):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["text", "mood"])
            long = rows - rows // 30 - 1
            lines.writerows(("good day " * (15 if i >= long else 1), "ab"[i >= long]) for i in range(rows))
    data = own_data.Texts(tmp_path / "train.csv", tmp_path / "validation.csv", ["text"], "mood")
    init.start_project(tmp_path / "p", data=data)
    assert load_study(tmp_path / "p/params.yaml").tasks["p"].max_length == 40


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").touch()
    with pytest.raises(KdcacheError, match=r"has params.yaml already"):
        init.start_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_column_that_is_not_there_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    files = put_rows(tmp_path / "from")
    with pytest.raises(TaskError, match="txt"):
        init.start_project(tmp_path / "p", data=own_data.Texts(*files, text=["txt"], label="mood"))
    with pytest.raises(KdcacheError, match="1 different labels in 40 rows"):
        init.start_project(tmp_path / "p", data=own_data.Texts(*files, text=["text"], label="other"))
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("text", "label", "said"),
    [
        (["text", "text"], "label", "names the column 'text' twice"),
        (["text"], "text", "is also an input column"),
    ],
)
def test_columns_that_are_no_task_are_named_and_nothing_is_written(
    tmp_path: Path, text: list[str], label: str, said: str
) -> None:
    data = own_data.Texts(*put_rows(tmp_path / "from"), text=text, label=label)
    with pytest.raises(KdcacheError, match=said):
        init.start_project(tmp_path / "project", "default", data)
    assert not (tmp_path / "project").exists()


def test_a_file_is_no_place_for_a_project(tmp_path: Path) -> None:
    (tmp_path / "project").write_text("mine")
    with pytest.raises(KdcacheError, match="project: is a file; name a folder"):
        init.start_project(tmp_path / "project")
    assert (tmp_path / "project").read_text() == "mine"


def test_a_changed_kdcache_asks_the_stages_that_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init.start_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = written(tmp_path, "kdcache.yaml")["code"]
    code_lock.check()
    assert code_lock.refresh() == ""
    copy = tmp_path / "kdcache"
    shutil.copytree(code_lock.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_lock, "PACKAGE", copy)
    code_lock.check()  # the hash is of the files, not of where they are
    with (copy / "training/loop.py").open("a") as file:
        file.write("X = 1\n")
    with pytest.raises(KdcacheError, match="differs in training; run `kdcache repro`"):
        code_lock.check()
    assert "kdcache has changed (training)" in code_lock.refresh()
    code_lock.check()
    after = written(tmp_path, "kdcache.yaml")["code"]
    assert {name for name in before if before[name] != after[name]} == {"training"}


def test_a_clone_has_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code_lock.check()
    assert code_lock.refresh() == ""


def test_the_wheel_has_what_a_project_starts_from(tmp_path: Path) -> None:
    build = [
        "setup.py",
        "-q",
        "build",
        "--build-base",
        str(tmp_path / "base"),
        "--build-lib",
        str(tmp_path / "lib"),
    ]
    subprocess.run(
        [sys.executable, *build, "egg_info", "--egg-base", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    project = tmp_path / "lib/kdcache/repro/project"
    studies = (template.default_study(), template.whole_study("language-model"))
    named = {name for study in studies for name in template.checkpoints(study)}
    assert {path.name for path in (project / "data/models").iterdir()} == named
    for name in (
        "dvc.yaml",
        "params.yaml",
        ".dvcignore",
        "stages/train.py",
        "studies/paper.yaml",
        "studies/language-model.yaml",
        ".dvc/plots/gains.json",
    ):
        assert (project / name).read_bytes() == (ROOT / name).read_bytes()
    assert {path.name for path in (tmp_path / "lib").iterdir()} == {"kdcache"}
    assert sum(path.stat().st_size for path in project.rglob("*") if path.is_file()) < 22e6


def put_images(folder: Path, side: int, colour: bool) -> Path:
    """Two classes in train and validation, two images of each."""
    for split in ("train", "validation"):
        for number, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            for row in range(2):
                pixels = np.full((side, side, 3) if colour else (side, side), 200 * number + row, np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{row}.png")
    return folder


@pytest.mark.parametrize(("side", "colour", "size", "channels"), [(12, False, 8, 1), (20, True, 32, 3)])
def test_images_of_one_s_own(tmp_path: Path, side: int, colour: bool, size: int, channels: int) -> None:
    folder = put_images(tmp_path / "photos", side, colour)
    (folder / "train" / "dark" / "._0.png").write_bytes(b"litter")
    said = init.start_project(tmp_path / "shades", data=own_data.Images(folder))
    study = load_study(tmp_path / "shades/params.yaml")
    assert study.tasks["shades"].source.folder == folder.as_posix()
    assert (study.tasks["shades"].image, list(study.students)) == ("image", ["vit-tiny-scratch"])
    text = (tmp_path / "shades/params.yaml").read_text()
    assert f"4 and 4 images, 2 classes, {side} pixels at most, {'in colour' if colour else 'grey'}." in text
    assert any("kdcache student shades vit-tiny-scratch kd --out DIR" in line for line in said)
    models = tmp_path / "shades/data/models"
    vit = json.loads((models / "vit-tiny/config.json").read_text())
    assert (vit["image_size"], vit["patch_size"], vit["num_channels"]) == (size, size // 4, channels)
    for name, pixels in (("vit-tiny", size), ("resnet-tiny", 2 * size)):
        settings = json.loads((models / name / "preprocessor_config.json").read_text())
        assert settings["size"] == {"height": pixels, "width": pixels}
        assert len(settings["image_mean"]) == len(settings["image_std"]) == channels
        assert json.loads((models / name / "config.json").read_text())["num_channels"] == channels
    assert find_mistakes_in(tmp_path / "shades") == []


def find_mistakes_in(project: Path) -> list[str]:
    with contextlib.chdir(project):
        return find_mistakes(load_study("params.yaml"))[0]


def test_images_within_the_project_count_from_it(tmp_path: Path) -> None:
    folder = put_images(tmp_path / "shades" / "photos", 4, colour=False)
    init.start_project(tmp_path / "shades", data=own_data.Images(folder))
    assert load_study(tmp_path / "shades/params.yaml").tasks["shades"].source.folder == "photos"
    deps = written(tmp_path / "shades", "dvc.yaml")["stages"]["prepare"]["deps"]
    assert deps == ["photos/train", "photos/validation"]


def test_a_path_with_what_dvc_would_fill_in(tmp_path: Path) -> None:
    folder = put_images(tmp_path / "${tasks}", 4, colour=False)
    init.start_project(tmp_path / "shades", data=own_data.Images(folder))
    deps = written(tmp_path / "shades", "dvc.yaml")["stages"]["prepare"]["deps"]
    assert deps == [f"{tmp_path}/\\${{tasks}}/{split}" for split in ("train", "validation")]


def test_images_that_are_not_so_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    folder = put_images(tmp_path / "photos", 4, colour=False)
    (folder / "train" / "dark" / "1.png").write_bytes(b"damaged")
    with pytest.raises(TaskError, match=r"dark/1\.png: cannot be decoded"):
        init.start_project(tmp_path / "p", data=own_data.Images(folder))
    with pytest.raises(TaskError, match="has no folder 'train'; the folders in it: dark, light"):
        init.start_project(tmp_path / "p", data=own_data.Images(folder / "train"))
    assert not (tmp_path / "p").exists()
