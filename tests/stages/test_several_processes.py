"""The stages under `accelerate launch`: two processes, or machines, train each model together and write one cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdcache.logits import LogitCache
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.scores import trial_scores
from stages import cache, prepare, teach, train
from tests.launching import ROOT, run_in_two_processes, run_on_two_machines, run_side_by_side

KD = ["--task", "digits", "--student", "vit-tiny-scratch", "--regularizer", "kd"]
TEACHER = ["--task", "digits", "--teacher", "resnet-tiny"]
STAGES = {
    "stages.teach": (teach.main, TEACHER),
    "stages.cache": (cache.main, TEACHER),
    "stages.train": (train.main, KD),
}
TRIAL = Path("data/trials/digits/vit-tiny-scratch/kd/seed-0")
TEACHER_LOGITS = Path("data/logits/digits/resnet-tiny")


def prepare_in(folder: Path) -> None:
    """Make a workspace, the current folder: one seed of the smallest study, and its prepared task."""
    study = yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text())
    # No ResNet: its batch normalisation sees a process's share of a batch only, so two processes train another one.
    study["teachers"]["resnet-tiny"] |= {"checkpoint": "data/models/vit-tiny", "epochs": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump({**study, "seeds": [0]}))
    (folder / "data").mkdir()
    (folder / "data" / "models").symlink_to(ROOT / "data" / "models")
    prepare.main(["--task", "digits"])


def logits(folder: Path) -> dict[str, np.ndarray]:
    opened = LogitCache(folder)
    return {split: opened.split(split).logits for split in opened.manifest.splits}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which one process did it all; what an earlier test made of Accelerate's state is forgotten."""
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state()
    PartialState._reset_state()
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("KDCACHE_WORKERS", "1")
        prepare_in(folder)
        for main, arguments in STAGES.values():
            main(arguments)
    return folder


def assert_same_trial(two: Path, one: Path) -> None:
    assert_close(two / TRIAL / "logits", one / TRIAL / "logits")
    scores = [
        trial_scores(folder / TRIAL, PreparedTask(folder / "data/tasks/digits")) for folder in (one, two)
    ]
    assert scores[1]["accuracy"] == pytest.approx(scores[0]["accuracy"], abs=0.01)


def assert_close(two: Path, one: Path) -> None:
    expected, found = logits(one), logits(two)
    assert expected.keys() == found.keys()
    for split, values in expected.items():
        # sums in another order, over an epoch
        np.testing.assert_allclose(found[split], values, atol=0.05)


def test_two_processes_teach_and_cache_and_two_machines_distill_as_one_does(
    tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_in(tmp_path)
    for module in ("stages.teach", "stages.cache"):
        run_side_by_side(Path(module), *TEACHER, module=True)
    run_on_two_machines(Path("stages.train"), *KD, module=True)

    rows = [LogitCache(folder / TEACHER_LOGITS).split("train") for folder in (one, tmp_path)]
    np.testing.assert_array_equal(rows[0].ids, rows[1].ids)
    np.testing.assert_array_equal(rows[0].row_hashes, rows[1].row_hashes)
    assert_close(tmp_path / TEACHER_LOGITS, one / TEACHER_LOGITS)
    assert_same_trial(tmp_path, one)


def test_two_processes_of_a_machine_distill_as_one_does(
    tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same logits. In tests/training and tests/logits they train and write a cache without the launcher."""
    two = tmp_path / "two"
    shutil.copytree(one, two, symlinks=True, ignore=shutil.ignore_patterns("trials", ".kdcache"))
    monkeypatch.chdir(two)
    run_in_two_processes(Path("stages.train"), *KD, module=True)
    assert_same_trial(two, one)
