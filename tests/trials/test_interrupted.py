"""Trainings killed by SIGKILL, again and again: what comes out is what an uninterrupted one gives, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.study import Regularizer, Student, Teacher
from kdcache.trials.run import run_trial
from kdcache.trials.states import EVERY, FILE
from kdcache.trials.watching import TrainingWatch
from tests import tiny_models as tiny
from tests.doing import prepare_words, teach, trial_plan
from tests.forked import forked
from tests.launching import LAUNCH, VARIABLES

STEPS = 160  # of 40 rows by 4, in 16 epochs
PATIENCE = 900  # seconds, on a machine that is busy
KILLS = {"teacher": 20, "trial": 3}
RECIPE: dict[str, Any] = {"learning_rate": 0.003, "epochs": 16, "batch_size": 4, "precision": "float32"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of 40 rows and a BERT with dropout."""
    root = tmp_path_factory.mktemp("project")
    prepare_words(root)
    tiny.save_checkpoint(root / "bert", "bert")
    return root


def make_teacher(root: Path, folder: Path) -> None:
    teach("big", root / "task", Teacher(checkpoint=str(root / "bert"), seed=1, **RECIPE), folder, "taught")


def make_trial(root: Path, folder: Path) -> None:
    model = Student(checkpoint=str(root / "bert"), keep="all", **RECIPE)
    smooth = Regularizer(soft_labels="uniform", alpha=0.1)
    run_trial(
        trial_plan(
            folder=folder,
            identity="tried",
            task_folder=root / "task",
            model=model,
            method=smooth,
            seed=2,
            keep_model=True,
        )
    )


MAKERS: dict[str, Callable[[Path, Path], None]] = {"teacher": make_teacher, "trial": make_trial}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but what it took."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "cost.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def work(what: str, root: Path, folder: Path, here: Path, steps: Connection) -> None:
    """In a process of its own: train, with a state kept after every step, and tell of each."""
    os.chdir(here)
    os.environ[EVERY] = "0"
    torch.set_num_threads(1)
    TrainingWatch.step = lambda self: steps.send("step")  # type: ignore[method-assign]
    MAKERS[what](root, folder)
    steps.send("done")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("what", MAKERS)
def test_killed_again_and_again_at_random(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(EVERY, "off")
    MAKERS[what](project, tmp_path / "whole")
    draw, killed = random.Random(what), 0
    context = forked()
    while killed < KILLS[what]:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        arguments = (what, project, tmp_path / "interrupted", tmp_path, theirs)
        process = context.Process(target=work, args=arguments)
        process.start()
        theirs.close()
        for _ in range(draw.randint(1, 2)):
            assert ours.recv() == "step", f"ended after {killed} kills"
        time.sleep(draw.random() * 0.01)  # in a step, or while its state is written
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "interrupted" / "teacher.json").exists()
    assert (tmp_path / ".kdcache" / "training").is_dir()
    monkeypatch.setenv(EVERY, "0")
    left = []
    monkeypatch.setattr(TrainingWatch, "step", lambda self: left.append("step"))
    MAKERS[what](project, tmp_path / "interrupted")
    assert (
        len(left) < STEPS
    )  # it went on from a state; a slow machine is often killed before the next one is kept
    assert contents(tmp_path / "interrupted") == contents(tmp_path / "whole")
    assert not any((tmp_path / ".kdcache" / "training").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {".kdcache", "whole", "interrupted"}


SCRIPT = """
import os
import sys
from pathlib import Path
from accelerate import PartialState
from kdcache.trials.watching import TrainingWatch
from tests.trials.test_interrupted import make_teacher

inner, said = TrainingWatch.begins, open(sys.argv[3], "a", buffering=1)
TrainingWatch.begins = lambda self, of, done: (said.write(f"{os.getpid()} {done}\\n"), inner(self, of, done))
make_teacher(Path(sys.argv[1]), Path(sys.argv[2]))
PartialState().destroy_process_group()
"""


def launch(script: Path, *arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        *LAUNCH.split(),
        "--num_machines",
        "1",
        "--main_process_port",
        "0",
        str(script),
    ]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env={**os.environ, **VARIABLES, **environment},
        cwd=script.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_two_processes_killed_together(project: Path, tmp_path: Path) -> None:
    """A state is kept after each 20th step. Takes about a minute."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("torch was built without gloo, so two processes on a CPU cannot talk")
    script = tmp_path / "make.py"
    script.write_text(SCRIPT)
    whole = launch(script, project, tmp_path / "whole", tmp_path / "first", **{EVERY: "off"})
    assert whole.wait(PATIENCE) == 0
    interrupted = launch(script, project, tmp_path / "interrupted", tmp_path / "second", **{EVERY: "0"})
    state = tmp_path / ".kdcache" / "training" / "taught" / FILE
    deadline = time.monotonic() + PATIENCE
    while not state.exists() and interrupted.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    kill_all(interrupted, begun(tmp_path / "second"))
    assert state.exists()
    assert not (tmp_path / "interrupted").exists()
    again = launch(script, project, tmp_path / "interrupted", tmp_path / "third", **{EVERY: "0"})
    assert again.wait(PATIENCE) == 0
    one, other = begun(tmp_path / "third").values()
    assert one == other > 0  # both go on from the same step
    assert one % 20 == 0
    assert contents(tmp_path / "interrupted") == contents(tmp_path / "whole")
    assert not state.parent.exists()


def begun(said: Path) -> dict[int, int]:
    """After how many steps each process began, by its id."""
    lines = said.read_text().splitlines() if said.exists() else []
    return {int(line.split()[0]): int(line.split()[1]) for line in lines}


def kill_all(launched: subprocess.Popen[bytes], workers: Iterable[int]) -> None:
    """The workers by themselves: they are no part of their launcher's group."""
    for pid in [*workers, launched.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    launched.wait()
