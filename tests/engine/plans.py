"""Plans, and functions that run them; other processes can import these."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from kdcache.errors import TrialError
from kdcache.study import Regularizer, Student
from kdcache.trials.plan import TrialPlan


def plan(folder: Path, seed: int) -> TrialPlan:
    return TrialPlan(
        folder=folder / f"seed-{seed}",
        identity=str(seed),
        task="rte",
        task_folder=folder,
        data="data",
        student="tiny",
        model=Student(checkpoint="x", learning_rate=0.1, epochs=1, batch_size=1),
        regularizer="base",
        method=Regularizer(),
        seed=seed,
        soft_labels=(),
        keep_train_logits=False,
    )


def plans(folder: Path, count: int) -> list[TrialPlan]:
    return [plan(folder, seed) for seed in range(count)]


def seeds(folder: Path) -> list[int]:
    """The seeds that were run."""
    return sorted(int(path.name.removeprefix("seed-")) for path in folder.glob("seed-*"))


def touch(plan: TrialPlan) -> None:
    plan.folder.mkdir(parents=True)


def fail_on_odd_seeds(plan: TrialPlan) -> None:
    if plan.seed % 2:
        raise TrialError(f"seed {plan.seed} is odd")
    touch(plan)


class Unpicklable(Exception):
    """An error that, like some of the hub's, cannot be made from its message alone."""

    def __init__(self, code: int, place: str) -> None:
        super().__init__(f"code {code} in {place}")


def break_on_seed_1(plan: TrialPlan) -> None:
    if plan.seed == 1:
        raise Unpicklable(7, "the deep")
    touch(plan)


def die_on_seed_1(plan: TrialPlan) -> None:
    if plan.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    touch(plan)


def die_once_on_odd_seeds(plan: TrialPlan) -> None:
    """Leaves half a trial behind the first time."""
    been_here = plan.task_folder / f"been-here-{plan.seed}"
    touch(plan)
    if plan.seed % 2 and not been_here.exists():
        been_here.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def tell_pid(plan: TrialPlan) -> None:
    touch(plan)
    write(plan.folder / "pid", str(os.getpid()))


def tell_pid_and_wait(plan: TrialPlan) -> None:
    tell_pid(plan)
    time.sleep(600)


def tell_variables_together(plan: TrialPlan) -> None:
    """Write the worker's GPU and threads, once four trials run at the same time."""
    touch(plan)
    write(plan.folder / "gpu", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    write(plan.folder / "threads", os.environ["RAYON_NUM_THREADS"])
    wait_for(lambda: len(list(plan.task_folder.glob("seed-*/threads"))) == 4, 120)


def tell_setting(plan: TrialPlan) -> None:
    touch(plan)
    write(plan.folder / "told", str(os.environ.get("KDCACHE_TOLD")))


def write(path: Path, text: str) -> None:
    """Write a file that is whole or absent."""
    path.with_suffix(".tmp").write_text(text)
    path.with_suffix(".tmp").rename(path)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it has ended in the meantime, or this is no Linux
        return not Path("/proc").exists()
