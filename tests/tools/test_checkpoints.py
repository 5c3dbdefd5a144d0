"""The checkpoints' benchmark on a task of a few rows and models of a few weights."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from tests.tiny_models import TEXTS, save_checkpoint
from tools import checkpoints


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setenv("KDCACHE_WORKERS", "1")
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def options(tmp_path) -> list[str]:
    """A checkpoint with a card, and a task that can be learned: whether a text has a cat or a dog."""
    checkpoint = save_checkpoint(tmp_path / "tiny", "bert")
    (checkpoint / "README.md").write_text("# tiny\n\nA checkpoint.\n")
    folder = tmp_path / "pets"
    folder.mkdir()
    for split, rows in (("train", 24), ("validation", 8)):
        write_rows(folder / f"{split}.csv", rows)
    files = ["--files", str(folder / "train.csv"), str(folder / "validation.csv"), "--files-only"]
    return [
        str(checkpoint),
        *files,
        "--text",
        "title",
        "--label",
        "pet",
        "--epochs",
        "1",
        "--max-length",
        "8",
    ]


def write_rows(path: Path, rows: int) -> None:
    lines = [(f"{TEXTS[0] if i % 4 else TEXTS[4]} {i}", "cat" if i % 4 else "dog") for i in range(rows)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("title", "pet"), *lines])


def test_the_table_goes_into_the_card_without_this_machines_folders(options, tmp_path, capsys):
    checkpoints.main([*options, "--seeds", "2", "--card"])
    printed = capsys.readouterr().out.strip().splitlines()
    card = (tmp_path / "tiny" / "README.md").read_text()
    assert len(printed) == 3
    assert printed[2].startswith("| pets | 24 train, 8 validation | 75.0 | ")  # 6 of 8 are cats
    assert "## Fine-tuned\n\n" + "\n".join(printed) in card
    for part in ("over 2 seeds", "1 epochs", "batches of 32", "8 tokens (pets)", "1 thread(s) a run"):
        assert part in card
    assert str(tmp_path) not in card


def test_table_by_hand():
    card = checkpoints.TaskCard.model_construct(
        name="toy", rows={"train": 1500, "validation": 10}, class_counts={"validation": [4, 6]}
    )
    accuracy = {"pretrained": [0.8, 0.9, 1.0], "scratch": [0.7, 0.7, 0.7]}
    found = checkpoints.Measured(card, accuracy, seconds=1.0, device="cpu")
    assert checkpoints.table([found]).splitlines()[2] == (
        "| toy | 1,500 train, 10 validation | 60.0 | 90.0 ± 10.0 | 70.0 ± 0.0 | +20.0 |"
    )
    assert checkpoints.spread([0.5]) == "50.0"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--epochs", "0"], "student: epochs: "),
        (["--max-length", "1"], "task: max_length: "),
        (["--text", "body"], "body"),
    ],
)
def test_mistakes_are_named(options, extra, message, capsys):
    with pytest.raises(SystemExit):
        checkpoints.main([*options, *extra])
    assert message in capsys.readouterr().err


def test_files_in_a_folder_named_like_the_built_in_task_do_not_replace_it(
    options, tmp_path, monkeypatch, capsys
):
    (tmp_path / "pets").rename(tmp_path / "bbc-headlines")
    renamed = [option.replace(f"{tmp_path}/pets/", f"{tmp_path}/bbc-headlines/") for option in options]
    both = [option for option in renamed if option != "--files-only"]
    monkeypatch.setattr(checkpoints, "prepare_task", None)
    with pytest.raises(SystemExit):
        checkpoints.main(both)
    assert "the name of the built-in task, bbc-headlines" in capsys.readouterr().err
    assert list(checkpoints._tasks(checkpoints._parse(renamed))) == ["bbc-headlines"]  # alone it is no matter


def test_a_missing_card_shows_before_the_work(options, tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny" / "README.md").unlink()
    monkeypatch.setattr(checkpoints, "prepare_task", None)
    with pytest.raises(SystemExit):
        checkpoints.main([*options, "--card"])
    assert "no model card" in capsys.readouterr().err
