"""A real checkout with a study of seconds: a text task from CSV files, a teacher and a student of few weights."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdcache.study.settled import ensure_settled, settled_beside

REPOSITORY = Path(__file__).parents[2]
WORDS = {"warm": ["sun", "beach", "summer", "heat"], "cold": ["snow", "ice", "winter", "frost"]}
RECIPE = {"init": "scratch", "learning_rate": 0.005, "epochs": 2, "batch_size": 8}


class Checkout:
    """A copy of the repository's pipeline in a folder of its own, under Git and DVC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study: dict[str, Any] = {}
        for name in ("kdcache", "stages", ".dvc"):
            # __pycache__ is copied too: copies keep the age of their source, so nothing is compiled again.
            ignored = shutil.ignore_patterns("*.pyc.*", "cache", "tmp")
            shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
        for name in ("dvc.yaml", ".dvcignore"):
            shutil.copy(REPOSITORY / name, folder)
        ensure_settled(settled_beside(folder / "params.yaml"))
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "HF_HUB_OFFLINE": "1",
            "KDCACHE_WORKERS": "1",
            "DVC_NO_ANALYTICS": "1",
        }
        self.run("git", "init", "--quiet")

    def run(self, *command: str) -> str:
        """Run a command in the checkout; returns its output, standard error included."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.sharing if "kdcache" in command else self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{command} failed:\n{output}"
        return output

    @property
    def sharing(self) -> dict[str, str]:
        """The environment of `kdcache repro` and `settle`: one worker would import torch in each of their stages."""
        return {name: value for name, value in self.environment.items() if name != "KDCACHE_WORKERS"}

    def repro(self, *options: str) -> list[str]:
        """Run `dvc repro`; returns the names of the stages that ran."""
        lines = self.run("dvc", "repro", *options).splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def save(self) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.study, sort_keys=False))

    def results(self, regularizer: str, student: str = "small") -> dict[int, dict[str, Any]]:
        """result.json of each seed of a configuration."""
        folder = self.folder / "data" / "trials" / "weather" / student / regularizer
        found = (json.loads(path.read_text()) for path in folder.glob("seed-*/result.json"))
        return {result["seed"]: result for result in found}

    def result_file(self, regularizer: str, seed: int) -> Path:
        return self.folder / "data/trials/weather/small" / regularizer / f"seed-{seed}" / "result.json"

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.folder / "metrics" / name).open(newline="") as file:
            return list(csv.DictReader(file))


def _write_rows(path: Path, count: int) -> None:
    rows = []
    for index in range(count):
        label = "warm" if index % 2 else "cold"
        words = WORDS[label]
        rows.append((f"{words[index % 4]} number {index} and {words[index // 4 % 4]}", label))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def _write_checkpoint(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "number", "and", *WORDS["warm"], *WORDS["cold"]]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    fast.save_pretrained(folder)
    BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    ).save_pretrained(folder)


@pytest.fixture
def new_checkout(tmp_path: Path) -> Callable[[str], Checkout]:
    """Makes checkouts by name, each with the same data and the same study, seeds [0]."""

    def make(name: str) -> Checkout:
        (tmp_path / name).mkdir()
        checkout = Checkout(tmp_path / name)
        _write_checkpoint(checkout.folder / "data/models/bert")
        _write_rows(checkout.folder / "train.csv", 40)
        _write_rows(checkout.folder / "validation.csv", 24)
        model = {"checkpoint": "data/models/bert", **RECIPE}
        checkout.study = {
            "seeds": [0],
            "tasks": {
                "weather": {
                    "source": {"files": {"train": "train.csv", "validation": "validation.csv"}},
                    "text": ["text"],
                    "metrics": ["accuracy"],
                    "max_length": 16,
                }
            },
            "teachers": {"big": model},
            "students": {"small": {**model, "teacher": "big"}},
            "regularizers": {"base": {}, "smooth": {"soft_labels": "uniform", "alpha": 0.1}},
            "distillers": {
                "kd": {"soft_labels": "teacher", "alpha": 0.5, "temperature": 2},
                "self_kd": {"soft_labels": "self", "alpha": 0.5, "temperature": 2},
            },
            "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
        }
        checkout.save()
        return checkout

    return make
