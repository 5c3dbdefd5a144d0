"""The pipeline through real DVC: what runs again after which change, and what survives a killed stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import altair as alt

from tests.pipeline.conftest import Checkout

NewCheckout = Callable[[str], Checkout]


def stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_a_study_and_its_changes(new_checkout: NewCheckout) -> None:
    checkout = new_checkout("study")
    del checkout.study["distillers"]["self_kd"]  # test_language.py has one
    checkout.save()

    # The whole study, then nothing.
    ran = checkout.repro()
    assert ran[0] == "prepare@weather"
    assert ran[-2:] == ["compare", "report"]
    assert len(ran) == 9
    assert checkout.repro() == []
    assert len(checkout.table("trials.csv")) == 3
    assert [row["kind"] for row in checkout.table("cost.csv")] == ["teacher", "cache", *["trial"] * 3]
    assert "<html" in (checkout.folder / "report/index.html").read_text()
    assert {(row["epoch"], row["seeds"]) for row in checkout.table("curves.csv")} == {("1", "1"), ("2", "1")}
    _dvc_shows_the_results(checkout)

    # A new seed runs that seed's trials only.
    old = {name: stamp(checkout.result_file(name, 0)) for name in ("base", "smooth", "kd")}
    checkout.study["seeds"] = [0, 1]
    checkout.save()
    ran = checkout.repro()
    assert not [name for name in ran if name.startswith(("prepare", "teach", "cache"))]
    for name, before in old.items():
        assert stamp(checkout.result_file(name, 0)) == before
        assert set(checkout.results(name)) == {0, 1}
    assert {(row["regularizer"], row["seeds"]) for row in checkout.table("comparisons.csv")} == {
        (name, "2") for name in ("smooth", "kd")
    }

    # A distiller's parameter runs its trials only.
    before_others = {name: stamp(checkout.result_file(name, 1)) for name in ("base", "smooth")}
    before_kd = stamp(checkout.result_file("kd", 1))
    checkout.study["distillers"]["kd"]["alpha"] = 0.9
    checkout.save()
    ran = [
        name for name in checkout.repro() if name != "tune"
    ]  # which has nothing to tune, and looks each time
    assert ran == ["distill@weather-small-kd", "compare", "report"]
    assert {name: stamp(checkout.result_file(name, 1)) for name in before_others} == before_others
    assert stamp(checkout.result_file("kd", 1)) != before_kd

    # A removed regularizer leaves every table; a removed seed leaves the disk.
    del checkout.study["regularizers"]["smooth"]
    checkout.study["seeds"] = [1]
    checkout.save()
    checkout.repro()
    assert {row["regularizer"] for row in checkout.table("trials.csv")} == {"base", "kd"}
    assert {row["regularizer"] for row in checkout.table("comparisons.csv")} == {"kd"}
    assert "smooth" not in (checkout.folder / "report/index.html").read_text().split("<script")[0]
    assert not checkout.result_file("kd", 0).parent.exists()

    # A new student never touches the teacher or its cache.
    checkout.study["students"]["twin"] = dict(checkout.study["students"]["small"])
    checkout.save()
    ran = checkout.repro("distill@weather-twin-kd")
    assert ran[-2:] == ["train@weather-twin-base", "distill@weather-twin-kd"]
    assert set(ran[:-2]) <= {"tune"}


def _dvc_shows_the_results(checkout: Checkout) -> None:
    shown = json.loads(checkout.run("dvc", "metrics", "show", "--json"))
    (metrics,) = shown[""]["data"].values()
    assert set(metrics["data"]["gain"]) == {"smooth", "kd"}
    # one student from scratch, one seed: nothing can be settled
    assert metrics["data"]["scratch_some_better"] == "inconclusive"
    plots = json.loads(checkout.run("dvc", "plots", "show", "--json"))["data"]
    points = {name: len(plot[0]["content"]["data"]["values"]) for name, plot in plots.items()}
    assert points == {"gains": 2, "curves": 6}  # comparisons; three configurations of two epochs
    for plot in plots.values():
        alt.Chart.from_dict(plot[0]["content"])  # raises SchemaValidationError


def test_a_killed_stage_resumes_and_ends_as_if_nothing_had_happened(new_checkout: NewCheckout) -> None:
    killed, whole = new_checkout("killed"), new_checkout("whole")
    for checkout in (killed, whole):
        checkout.study["seeds"] = [0, 1, 2, 3]
        checkout.study["students"]["small"]["epochs"] = 20
        checkout.study["distillers"] = {}
        checkout.study["regularizers"] = {"base": {}}
        checkout.study["teachers"] = {}
        del checkout.study["students"]["small"]["teacher"]
        checkout.save()
    whole.repro("train@weather-small-base")

    killed.repro("prepare@weather")
    command = [sys.executable, "-m", "stages.train", "--task", "weather", "--student", "small"]
    stage = subprocess.Popen(
        [*command, "--regularizer", "base"], cwd=killed.folder, env=killed.environment, start_new_session=True
    )
    first = killed.result_file("base", 0)
    while not first.exists():
        assert stage.poll() is None, "the stage ended before it had a result"
        time.sleep(0.01)
    os.killpg(stage.pid, signal.SIGKILL)
    stage.wait()
    before = stamp(first)
    assert set(killed.results("base")) != {0, 1, 2, 3}

    killed.repro("train@weather-small-base")
    assert stamp(first) == before
    for seed, result in whole.results("base").items():
        again = killed.results("base")[seed]
        for key in ("identity", "losses", "steps"):
            assert again[key] == result[key], (seed, key)


def test_a_second_writer_is_refused(new_checkout: NewCheckout) -> None:
    from kdcache.system.locks import exclusive

    checkout = new_checkout("busy")
    checkout.repro("prepare@weather")
    folder = checkout.folder / "data/trials/weather/small/base"
    command = [sys.executable, "-m", "stages.train", "--task", "weather", "--student", "small"]
    with exclusive(folder):
        done = subprocess.run(
            [*command, "--regularizer", "base"],
            cwd=checkout.folder,
            env=checkout.environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "another process is writing here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not folder.exists()
