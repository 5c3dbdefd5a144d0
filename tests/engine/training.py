"""Two small real trials, run by their stage, to check that every engine gets the same numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kdcache.logits import LogitCache
from stages import prepare, train
from tests.launching import ROOT

CONFIGURATION = ["--task", "digits", "--student", "vit-tiny-scratch", "--regularizer", "base"]
TRIALS = Path("data/trials/digits/vit-tiny-scratch/base")


def workspace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the smallest study with its prepared task, and make its folder the current one."""
    study = yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(study))
    (folder / "data").mkdir()
    (folder / "data" / "models").symlink_to(ROOT / "data" / "models")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KDCACHE_THREADS", "1")
    prepare.main(["--task", "digits"])


def train_with(*options: str) -> dict[str, Any]:
    """Results and logits of both seeds, without what differs from run to run."""
    train.main([*CONFIGURATION, *options])
    found: dict[str, Any] = {}
    for seed in (0, 1):
        result = json.loads((TRIALS / f"seed-{seed}" / "result.json").read_text())
        cache = LogitCache(TRIALS / f"seed-{seed}" / "logits")
        found[f"result {seed}"] = {n: v for n, v in result.items() if n not in ("seconds", "peak_memory_mb")}
        found |= {f"{split} {seed}": cache.split(split).logits for split in cache.splits}
    shutil.rmtree(TRIALS)
    return found


def same_numbers(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Whether numbers are equal bit by bit, while two seeds differ."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_equal(second[name], value)
    assert first["result 0"]["losses"] != first["result 1"]["losses"]
