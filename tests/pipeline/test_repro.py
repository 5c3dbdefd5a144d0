"""`kdcache repro` with real DVC: the order of stages, the state at the end, failures, and being stopped at any time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.pipeline.conftest import REPOSITORY
from tests.study.samples import STUDY, write

# Each stage leaves its number as its mark. Where MEET is set, the stages a wait for each other, so they end only if
# they run at the same time; they end in another order than they are listed in.
PIPELINE = """
stages:
  a:
    matrix: {n: [1, 2, 3]}
    cmd: sh a.sh ${item.n}
    params: [{values.yaml: ["v${item.n}"]}]
    deps: [a.sh]
    outs: ["a/${item.n}"]
  b:
    matrix: {n: [1, 2]}
    cmd: mkdir -p b; cat a/${item.n} a/3 > b/${item.n}
    deps: ["a/${item.n}", a/3]
    outs: ["b/${item.n}": {persist: true}]
  c:
    cmd: cat b/* > c.txt
    deps: [b]
    outs: [c.txt: {cache: false}]
"""
A_SH = """
mkdir -p a marks
echo "server: $KDCACHE_WORKER_SERVER" > marks/$1
if [ -n "$MEET" ]; then
  while [ $(ls marks | wc -l) -lt 3 ]; do sleep 0.05; done
  sleep 0.$((6 - 2 * $1))
fi
grep v$1 values.yaml > a/$1
"""


class Project:
    """A DVC project without Git in a folder of its own."""

    def __init__(self, folder: Path, pipeline: str = PIPELINE) -> None:
        self.folder = folder
        (folder / ".dvc").mkdir(parents=True)
        (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
        (folder / "dvc.yaml").write_text(pipeline)
        self.environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def start(
        self, *arguments: str, module: str = "kdcache", code: str = "", **environment: str
    ) -> subprocess.Popen[str]:
        """A Python process in the project: the module, or the code."""
        return subprocess.Popen(
            [sys.executable, *(["-c", code] if code else ["-m", module]), *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def repro(self, *options: str, code: int = 0, **environment: str) -> str:
        """`kdcache repro`; what it prints."""
        process = self.start("repro", *options, **environment)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code, output
        return output

    def dvc(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments, module="dvc")
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code, output
        return output

    def locks(self) -> dict[str, object]:
        """What DVC has noted as being read or written now."""
        noted = json.loads((self.folder / ".dvc/tmp/rwlock").read_text())
        return {kind: paths for kind, paths in noted.items() if paths}

    def files(self) -> dict[str, bytes]:
        """All files apart from DVC's own, the marks and the study."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.relative_to(self.folder).parts[0] not in (".dvc", "marks")
        }

    def write_values(self, *values: int) -> None:
        lines = [f"v{index}: {value}\n" for index, value in enumerate(values, start=1)]
        (self.folder / "values.yaml").write_text("".join(lines))


@pytest.fixture
def new_project(tmp_path: Path) -> Callable[[str], Project]:
    """Makes projects by name, with the pipeline above."""

    def make(name: str) -> Project:
        project = Project(tmp_path / name)
        (project.folder / "a.sh").write_text(A_SH)
        project.write_values(1, 2, 3)
        return project

    return make


NewProject = Callable[[str], Project]


def test_the_state_at_the_end_is_that_of_dvc_repro(new_project: NewProject) -> None:
    serial, parallel = new_project("serial"), new_project("parallel")
    serial.dvc("repro")
    output = parallel.repro("--jobs", "3", MEET="yes")
    assert "0 stages are up to date, 6 to run or to check" in output
    ended = [line.split(":")[0] for line in output.splitlines() if ": done in " in line]
    assert ended[:3] != ["a@1", "a@2", "a@3"]  # else this test shows nothing
    assert set(ended) == {"a@1", "a@2", "a@3", "b@1", "b@2", "c"}
    assert ended[-1] == "c"
    assert parallel.files() == serial.files()  # dvc.lock among them
    assert "dvc.lock" in parallel.files()
    assert parallel.locks() == {}
    assert "up to date" in parallel.dvc("status")
    assert "6 stages are up to date, 0 to run or to check" in parallel.repro()

    # A changed value runs what depends on it; what DVC then finds unchanged does not run.
    for project in (serial, parallel):
        project.write_values(1, 20, 3)
    serial.dvc("repro")
    output = parallel.repro("--jobs", "2")
    assert "3 stages are up to date, 3 to run or to check" in output  # a@2, b@2 and c have
    assert parallel.files() == serial.files()
    (parallel.folder / "a.sh").write_text(f"{A_SH}\n# the same files come out\n")
    output = parallel.repro("--jobs", "2")
    spared = [line.split(":")[0] for line in output.splitlines() if "did not have to run" in line]
    assert sorted(spared) == ["b@1", "b@2", "c"]  # two at once: which of the first two ends first is chance


def test_some_stages_only(new_project: NewProject) -> None:
    project = new_project("targets")
    output = project.repro("b@1")
    assert "0 stages are up to date, 3 to run or to check" in output
    assert not (project.folder / "b/2").exists()
    marks = {path.read_text() for path in (project.folder / "marks").iterdir()}
    assert marks == {"server: \n"}  # commands without trials: nobody has imported torch for them
    assert "no_such_stage" in project.repro("no_such_stage", code=1)


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_failing_stage_is_named_with_its_log(new_project: NewProject, keep_going: bool) -> None:
    serial, parallel = new_project("serial"), new_project("parallel")
    for project in (serial, parallel):
        (project.folder / "a.sh").write_text(f'[ "$1" = 2 ] && {{ echo no value for 2; exit 3; }}\n{A_SH}')
    output = parallel.repro(*["--keep-going"] * keep_going, code=1)
    assert "a@2: failed" in output
    assert "no value for 2" in output
    log = output.split("a@2 failed; all that it printed is in ")[1].splitlines()[0]
    assert "no value for 2" in Path(log).read_text()
    assert "not started because of that: b@2, c" in output
    assert not (parallel.folder / "c.txt").exists()
    assert parallel.locks() == {}
    if keep_going:
        serial.dvc("repro", "--keep-going", code=255)
        assert parallel.files() == serial.files()
        assert (parallel.folder / "b/1").exists()


def test_missing_data_are_let_be_unless_they_are_superseded(new_project: NewProject) -> None:
    project = new_project("missing")
    project.repro()
    (project.folder / "a/1").unlink()
    before = project.files()
    assert "up to date" in project.dvc("repro", "--allow-missing")
    output = project.repro("--allow-missing")
    assert "done in" not in output
    assert project.files() == before

    # As if dvc.lock came from a machine where a@1 had been run again, and its data had not come along.
    recorded = (project.folder / "dvc.lock").read_text()
    md5 = recorded.split("path: a/1")[1].split("md5: ")[1].split()[0]
    first, rest = recorded.split("  a@2:")
    (project.folder / "dvc.lock").write_text(f"{first.replace(md5, md5[::-1])}  a@2:{rest}")
    assert "failed to reproduce 'b@1'" in project.dvc("repro", "--allow-missing", code=255)
    assert "b@1: failed" in project.repro("--allow-missing", code=1)


TOGETHER = "import sys; from kdcache.repro.pipeline import run_together; run_together(sys.argv[1:])"


def test_stages_that_run_together_leave_what_dvc_leaves(new_project: NewProject) -> None:
    serial, together = new_project("serial"), new_project("together")
    serial.dvc("repro", "--single-item", "a@1", "a@2", "a@3")
    process = together.start("a@1", "a@2", "a@3", code=TOGETHER)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert together.files() == serial.files()
    assert together.locks() == {}
    again, _ = together.start("a@1", "a@2", code=TOGETHER).communicate(timeout=300)
    assert "Running stage" not in again
    assert "Stage 'a@1' didn't change, skipping" in again


def test_stages_that_ended_are_recorded_when_a_later_one_fails(new_project: NewProject) -> None:
    project = new_project("together")
    (project.folder / "a.sh").write_text(f'[ "$1" = 2 ] && exit 3\n{A_SH}')
    process = project.start("a@1", "a@2", "a@3", code=TOGETHER)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "failed to run: sh a.sh 2, exited with 3" in output
    recorded = (project.folder / "dvc.lock").read_text()
    assert "a@1" in recorded
    assert "a@2" not in recorded
    assert project.locks() == {}


# What the study below excludes; the second one goes wrong all the same.
EXCLUDED = """
stages:
  train:
    matrix: {n: [1, 2, 3]}
    cmd: test ${item.n} != 2 && mkdir -p data/trials/news/${item.n} && touch data/trials/news/${item.n}/base
    outs: ["data/trials/news/${item.n}/base"]
"""


def test_of_stages_that_run_together_the_failing_one_is_named(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", EXCLUDED)
    write(project.folder, STUDY)
    output = project.repro("--keep-going", code=1)
    assert "3 stages with nothing to do" not in output
    assert "train@2: failed" in output
    assert "train@1: did not have to run" in output  # it had ended before
    assert "train@3: done in" in output
    (project.folder / "dvc.yaml").write_text(EXCLUDED.replace("!= 2", "!= 4"))
    output = project.repro()
    assert "3 stages with nothing to do: done in" in output
    assert "up to date" in project.dvc("status")


SLEEPER = """
stages:
  first: {cmd: "true > first", outs: [first]}
  long:
    matrix: {n: [1, 2]}
    cmd: sh sleeper.sh ${item.n}
    deps: [first]
    outs: ["out-${item.n}"]
"""
# A child that Ctrl-C does not reach (a shell without job control has it ignored in the background), and one in a
# session of its own.
SLEEPER_SH = """
sleep 1001 & echo $! > pid-$1-a
setsid sleep 1002 & echo $! > pid-$1-b
echo $$ > pid-$1-c
sleep 1003
touch out-$1
"""


def sleeping(
    folder: Path, script: str = SLEEPER_SH
) -> tuple[Project, subprocess.Popen[str], list[psutil.Process]]:
    """A run with two stages that sleep, and all processes of theirs."""
    project = Project(folder, SLEEPER)
    (project.folder / "sleeper.sh").write_text(script)
    driver = project.start("repro", "--jobs", "2")
    files = [project.folder / f"pid-{n}-{which}" for n in (1, 2) for which in "abc"]
    end = time.monotonic() + 120
    while not all(file.exists() and file.read_text().strip() for file in files):
        assert time.monotonic() < end
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.02)
    return project, driver, [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]


def assert_gone(processes: list[psutil.Process], seconds: float = 30) -> None:
    assert len(processes) >= 9  # the driver, two of DVC's, and three of each stage
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert alive == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_leaves_no_process_and_no_lock(tmp_path: Path, number: signal.Signals) -> None:
    project, driver, processes = sleeping(tmp_path / "project")
    driver.send_signal(number)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 128 + number
    assert "stopping long@1, long@2" in output
    assert_gone(processes)
    assert project.locks() == {}
    assert "first:" in (project.folder / "dvc.lock").read_text()  # what had ended is recorded
    (project.folder / "sleeper.sh").write_text("touch out-$1")
    assert "1 stages are up to date, 2 to run or to check" in project.repro()


def test_a_second_signal_kills_a_stage_that_does_not_stop(tmp_path: Path) -> None:
    stubborn = "trap '' INT\n" + SLEEPER_SH.replace("sleep 1003", "while true; do sleep 1003; done")
    _, driver, processes = sleeping(tmp_path / "project", stubborn)
    driver.send_signal(signal.SIGINT)
    time.sleep(1)
    assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=15)  # less than it waits for those that stop by themselves
    assert driver.returncode == 130
    assert_gone(processes)


def test_a_killed_driver_takes_its_stages_along(tmp_path: Path) -> None:
    simple = "for which in a b c; do echo $$ > pid-$1-$which; done; exec sleep 1003"
    _, driver, processes = sleeping(tmp_path / "project", simple)
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


def test_a_second_run_in_the_same_project_is_refused(tmp_path: Path) -> None:
    project, driver, processes = sleeping(tmp_path / "project")
    assert "another `kdcache repro` runs here" in project.repro(code=1)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=120)
    assert_gone(processes)


# The second time, trials end after report has begun and before it has ended.
BESIDE = """
stages:
  trials:
    cmd: "test ! -e table || while ! test -e begun; do sleep 0.05; done; cp in trials"
    deps: [in]
    outs: [trials]
  compare: {cmd: cp trials table, deps: [trials], outs: [table]}
  report: {cmd: "touch begun; sleep 4; cp table page", deps: [table], outs: [page]}
"""
REPRODUCE = """
import sys
from pathlib import Path
from kdcache.repro.driver import reproduce
Path("in").write_text("one")
assert reproduce(["compare"]) == 0
Path("in").write_text("two")
sys.exit(reproduce(["compare"], beside=["report"]))
"""


def test_what_others_beside_read_is_not_written_meanwhile(tmp_path: Path) -> None:
    """DVC has a stage fail that would write what another one reads: it waits for nobody."""
    project = Project(tmp_path / "project", BESIDE)
    process = project.start(code=REPRODUCE)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "report: done in" in output
    assert output.rindex("compare: done in") > output.index("report: done in")
    files = project.files()
    assert (files["page"], files["table"]) == (b"one", b"two")


LOCKED = """
import time
from pathlib import Path
from dvc.repo import Repo, lock_repo
with lock_repo(Repo()):
    Path("locked").touch()
    time.sleep(5)
"""


STILL_WRITING = """
import time
from pathlib import Path
from dvc.repo import Repo
from dvc.rwlock import rwlock
repo = Repo()
with rwlock(repo.tmp_dir, repo.fs, "dvc repro c", [], [str(Path("c.txt").resolve())], False):
    Path("locked").touch()
    time.sleep(5)
"""


@pytest.mark.parametrize("code", [LOCKED, STILL_WRITING], ids=["a command", "a stage of a killed run"])
def test_another_dvc_command_is_waited_for(new_project: NewProject, code: str) -> None:
    """`dvc push` has the lock all the time. A killed run's stages hold their outs until they notice that it is gone."""
    project = new_project("project")
    other = project.start(code=code)
    while not (project.folder / "locked").exists():
        assert other.poll() is None, other.communicate()
        time.sleep(0.02)
    (project.folder / "locked").unlink()
    assert "6 to run or to check" in project.repro()
    assert other.wait(timeout=60) == 0
    assert project.locks() == {}


def test_names_that_are_longer_than_a_file_s(tmp_path: Path) -> None:
    names = [letter * 100 for letter in "abc"]
    stage = f"a: {{matrix: {{x: [{names[0]}], y: [{names[1]}], z: [{names[2]}, {'d' * 100}]}}, cmd: exit 1}}"
    output = Project(tmp_path / "project", f"stages:\n  {stage}\n").repro("--keep-going", code=1)
    assert len(set(re.findall(r"all that it printed is in (\S+)", output))) == 2
