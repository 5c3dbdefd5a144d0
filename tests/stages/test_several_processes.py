"""The stages under `accelerate launch`: two processes, or machines, train each model together and write one cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdcache.logits import LogitCache
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.scores import trial_scores
from stages import cache, prepare, teach, train
from tests.launching import ROOT, run_in_two_processes, run_on_two_machines

KD = ["--task", "digits", "--student", "vit-tiny-scratch", "--regularizer", "kd"]
TEACHER = ["--task", "digits", "--teacher", "resnet-tiny"]
STAGES = {
    "stages.teach": (teach.main, TEACHER),
    "stages.cache": (cache.main, TEACHER),
    "stages.train": (train.main, KD),
}
TRIAL = Path("data/trials/digits/vit-tiny-scratch/kd/seed-0")
TEACHER_LOGITS = Path("data/logits/digits/resnet-tiny")


def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one seed of the smallest study and its prepared task; the current folder from here on."""
    folder.mkdir()
    study = yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text())
    # No ResNet: its batch normalisation sees a process's share of a batch only, so two processes train another one.
    study["teachers"]["resnet-tiny"] |= {"checkpoint": "data/models/vit-tiny", "epochs": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump({**study, "seeds": [0]}))
    (folder / "data").mkdir()
    (folder / "data" / "models").symlink_to(ROOT / "data" / "models")
    monkeypatch.chdir(folder)
    prepare.main(["--task", "digits"])
    return folder


def logits(folder: Path) -> dict[str, np.ndarray]:
    opened = LogitCache(folder)
    return {split: opened.split(split).logits for split in opened.manifest.splits}


@pytest.fixture
def _state_of_one_process() -> None:
    """Forget what an earlier test made of Accelerate's process-wide state."""
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state()
    PartialState._reset_state()


@pytest.mark.usefixtures("_state_of_one_process")
@pytest.mark.parametrize("launched", [run_in_two_processes, run_on_two_machines])
def test_two_teach_cache_and_distill_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: Callable[..., str]
) -> None:
    two = prepared(tmp_path / "two", monkeypatch)
    for module, (_, arguments) in STAGES.items():
        launched(Path(module), *arguments, module=True)
    one = prepared(tmp_path / "one", monkeypatch)
    monkeypatch.setenv("KDCACHE_WORKERS", "1")
    for main, arguments in STAGES.values():
        main(arguments)

    rows = [LogitCache(folder / TEACHER_LOGITS).split("train") for folder in (one, two)]
    np.testing.assert_array_equal(rows[0].ids, rows[1].ids)
    np.testing.assert_array_equal(rows[0].row_hashes, rows[1].row_hashes)
    for folder in (TEACHER_LOGITS, TRIAL / "logits"):
        expected, found = logits(one / folder), logits(two / folder)
        assert expected.keys() == found.keys()
        for split, values in expected.items():
            np.testing.assert_allclose(
                found[split], values, atol=0.05
            )  # sums in another order, over an epoch
    scores = [
        trial_scores(folder / TRIAL, PreparedTask(folder / "data/tasks/digits")) for folder in (one, two)
    ]
    assert scores[1]["accuracy"] == pytest.approx(scores[0]["accuracy"], abs=0.01)
