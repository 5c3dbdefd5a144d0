"""The benchmark of whole studies: runs take turns, equal results are insisted on, ratios are round by round."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import end_to_end
from benchmarks.end_to_end import SERIAL, Timed
from kdcache.errors import KdcacheError

VARIANTS = {SERIAL: ["dvc", "repro"], "two": ["kdcache", "repro"]}
GIT = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c"]
WRITES_A_RESULT = """
from pathlib import Path
Path("metrics").mkdir(exist_ok=True)
Path("metrics/trials.csv").write_text("seed,accuracy\\n0,0.5\\n1,0.25\\n")
Path("metrics/cost.csv").write_text("kind,seed,seconds\\nteacher,,100\\ntrial,0,3\\ntrial,1,4\\n")
"""


def results(accuracy: float) -> pd.DataFrame:
    return pd.DataFrame({"seed": [0], "accuracy": [accuracy]})


def test_variants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def one_run(command: list[str], study: Path, folder: Path) -> tuple[Timed, pd.DataFrame]:
        ran.append(command)
        return Timed(len(ran), 1), results(0.5)

    monkeypatch.setattr(end_to_end, "one_run", one_run)
    found = end_to_end.measure(VARIANTS, Path("params.yaml"), 2)
    serial, two = VARIANTS.values()
    assert ran == [serial, two, two, serial]
    assert found == {SERIAL: [Timed(1, 1), Timed(4, 1)], "two": [Timed(2, 1), Timed(3, 1)]}


def test_other_results_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([0.5, 0.25])
    monkeypatch.setattr(end_to_end, "one_run", lambda *_: (Timed(1, 1), results(next(given))))
    with pytest.raises(KdcacheError, match=r"two: other results than the first run(?s:.*)0\.25"):
        end_to_end.measure(VARIANTS, Path("params.yaml"), 1)


def test_the_table_has_medians_and_the_ratios_of_rounds() -> None:
    """Ratios 10 / 5, 20 / 5 and 12 / 4 by hand: their median is 3."""
    found = {
        SERIAL: [Timed(10, 6), Timed(20, 8), Timed(12, 7)],
        "two": [Timed(5, 6), Timed(5, 8), Timed(4, 7)],
    }
    assert end_to_end.table(found).splitlines()[2:] == [
        "| dvc repro | 12 | 7 | 1.00 (1.00 to 1.00) |",
        "| two | 5 | 7 | 3.00 (2.00 to 4.00) |",
    ]


@pytest.mark.parametrize("left", [False, True], ids=["done", "work left"])
def test_one_run_is_of_a_fresh_clone(left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real Git and real DVC, of a project with one stage; what `dvc status` finds left to do is an error."""
    project, study = tmp_path / "project", tmp_path / "study.yaml"
    project.mkdir()
    (project / "result.py").write_text(WRITES_A_RESULT, encoding="utf-8")
    (project / "params.yaml").write_text("seeds: [0]\n", encoding="utf-8")
    study.write_text("seeds: [0, 1]\n", encoding="utf-8")
    stage = (
        f"{{cmd: {sys.executable} result.py, params: [seeds], "
        "outs: [metrics/trials.csv: {cache: false}, metrics/cost.csv: {cache: false}]}"
    )
    (project / "dvc.yaml").write_text(f"stages:\n  result: {stage}\n", encoding="utf-8")
    for command in (["git", "init"], ["dvc", "init"], ["git", "add", "."], [*GIT, "commit", "-m", "all"]):
        end_to_end.run_in(project, command)
    monkeypatch.setattr(end_to_end, "ROOT", project)
    command = [sys.executable, "result.py"] if left else ["dvc", "repro"]
    (tmp_path / "work").mkdir()
    if left:
        with pytest.raises(KdcacheError, match="finds work left to do"):
            end_to_end.one_run(command, study, tmp_path / "work")
        return
    timed, trials = end_to_end.one_run(command, study, tmp_path / "work")
    assert (tmp_path / "work/clone/params.yaml").read_text() == study.read_text()
    assert not (project / "metrics").exists()
    assert timed.trial_seconds == 7
    assert timed.seconds > 0
    assert trials.to_dict("list") == {"seed": [0, 1], "accuracy": [0.5, 0.25]}


def test_a_command_that_fails_shows_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(KdcacheError, match=r"failed:\nout of disk"):
        end_to_end.run_in(tmp_path, ["sh", "-c", "echo out of disk; exit 3"])


def test_a_users_settings_of_kdcache_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a store of finished trials, a study would be measured that copies them."""
    monkeypatch.setenv("KDCACHE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("OTHER", "kept")
    said = end_to_end.run_in(tmp_path, ["sh", "-c", "echo ${KDCACHE_STORE:-no store}, $OTHER"])
    assert said == "no store, kept\n"


def test_facts_name_the_commit_and_no_folder() -> None:
    facts = end_to_end.facts(end_to_end.LIBRARIES, 2)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert facts["commit"] == head
    assert set(facts["versions"]) == {"python", *end_to_end.LIBRARIES}
