"""`kdcache settle` with real DVC: to its end, stopped in the middle, again, and from nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kdcache.repro.settle import next_step
from tests.pipeline.conftest import REPOSITORY, Checkout

NewCheckout = Callable[[str], Checkout]
SETTLE = [sys.executable, "-m", "kdcache", "settle"]
KEPT = ("settle.json", "metrics/looks.csv", "metrics/comparisons.csv", "metrics/trials.csv", "dvc.lock")


@pytest.fixture
def new_study(new_checkout: NewCheckout) -> NewCheckout:
    """Checkouts of one study with looks, whose comparisons stop at different ones.

    `base` and `smooth` get every row right at every seed, which shows nothing before the second look. Some seeds of
    `faint` learn nothing: a spread, by which even two seeds are within such a margin.
    """

    def make(name: str) -> Checkout:
        checkout = new_checkout(name)
        without_teachers(checkout)
        checkout.study["seeds"] = 4
        checkout.study["comparison"] |= {
            "alpha": 0.45, "margin": {"accuracy": 100.0}, "looks": [2, 4], "stop_hopeless": 0,
        }  # fmt: skip
        checkout.study["students"]["small"]["epochs"] = 6
        checkout.study["regularizers"]["faint"] = {"soft_labels": "uniform", "alpha": 0.99}
        checkout.save()
        return checkout

    return make


def without_teachers(checkout: Checkout) -> None:
    """Each stage that trains takes seconds; the distillers' depend on settle.json like the others', see below."""
    checkout.study |= {"teachers": {}, "distillers": {}}
    del checkout.study["students"]["small"]["teacher"]


def kept(checkout: Checkout) -> dict[str, bytes]:
    return {name: (checkout.folder / name).read_bytes() for name in KEPT}


def without_cost(files: dict[str, bytes]) -> dict[str, bytes]:
    """dvc.lock records when caches were made, by the bytes of cost.json."""
    return {name: content for name, content in files.items() if name != "dvc.lock"}


def lines(output: str) -> list[str]:
    """What it said of the looks."""
    return [line for line in output.splitlines() if " settled" in line]


def test_look_after_look_until_nobody_goes_on(
    new_study: NewCheckout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = new_study("whole")
    assert "nothing is judged yet; next 6 trials, 2 seeds each" in checkout.run(*SETTLE, "--dry-run")
    said = lines(checkout.run(*SETTLE))
    assert said[0].startswith("look 1 of 2, 2 seeds: ")
    assert "of 2 settled" in said[-1]
    outcomes = {row["regularizer"]: row["outcome"] for row in checkout.table("comparisons.csv")}
    assert "goes on" not in outcomes.values()
    assert not any("not settled yet" in outcome for outcome in outcomes.values())
    last = {row["regularizer"]: int(row["seeds"]) for row in checkout.table("looks.csv")}
    for regularizer, seeds in last.items():
        assert len(checkout.results(regularizer)) == seeds
    assert len(checkout.results("base")) == max(last.values())

    before = kept(checkout)  # settling again changes no byte, and nothing is left to run
    again = checkout.run(*SETTLE)
    assert kept(checkout) == before
    assert "0 to run or to check" in again
    assert checkout.repro() == []
    with monkeypatch.context() as here:
        here.chdir(checkout.folder)
        assert next_step() == said[-1]

    (checkout.folder / "settle.json").unlink()  # the same file from nothing: verdicts follow from the trials
    checkout.run(*SETTLE)
    assert without_cost(kept(checkout)) == without_cost(before)

    killed = new_study("killed")
    shutil.copy(
        checkout.folder / "settle.json", killed.folder
    )  # a clone of a settled study begins with the first look
    kill_at(killed, 1)
    of_student = json.loads((killed.folder / "settle.json").read_text())["seeds"]["weather"]["small"]
    assert set(of_student.values()) == {2}
    kill_at(killed, 3)  # and in the second
    killed.run(*SETTLE)
    assert without_cost(kept(killed)) == without_cost(before)

    killed.study["comparison"]["margin"] = {"accuracy": 99.0}  # after the trials: that is said
    killed.save()
    killed.run(*SETTLE)
    page = (killed.folder / "report/index.html").read_text()
    assert "Changed after trials had been judged" in page
    assert "margin: {" in page


@pytest.mark.parametrize("stage", ["train", "distill", "compare"])
def test_a_stage_that_has_seeds_depends_on_settle_json(stage: str) -> None:
    pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
    assert "settle.json" in pipeline["stages"][stage]["deps"]


def kill_at(checkout: Checkout, seeds: int) -> None:
    """Settle, and SIGKILL it when the baseline has so many results."""
    process = subprocess.Popen(
        SETTLE, cwd=checkout.folder, env=checkout.sharing, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and len(checkout.results("base")) < seeds:
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _wait_for_stages(checkout.folder)


def _wait_for_stages(folder: Path) -> None:
    """Until those that the killed process had started have ended; they notice that it is gone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = subprocess.run(["pgrep", "-f", "stages.train"], capture_output=True, text=True, check=False)
        of_folder = [pid for pid in listed.stdout.split() if _works_in(pid, folder)]
        if not of_folder:
            return
        time.sleep(0.1)
    raise AssertionError("a stage of a killed process did not end")


def _works_in(pid: str, folder: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")) == folder
    except OSError:
        return False


def test_a_fixed_design_is_judged_once(new_checkout: NewCheckout) -> None:
    checkout = new_checkout("fixed")
    without_teachers(checkout)
    checkout.study["seeds"] = [0, 1]
    checkout.save()
    (said,) = lines(checkout.run(*SETTLE))
    assert "of 1 settled" in said
    assert "with 4 trials" in said
