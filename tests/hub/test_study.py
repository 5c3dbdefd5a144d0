"""A small study whose model and data are gated repositories of a hub, through the real stages, while `main` moves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdcache.results.gather import ResultsError, read_trials
from kdcache.study import load_study
from tests import tiny_models as tiny
from tests.hub.stand_in import TOKEN, Hub, Repository, serve
from tests.hub.test_hub import ROOT, data_files, environment_for

RECIPE = {"checkpoint": "some/bert", "revision": "main", "learning_rate": 0.01, "epochs": 1, "batch_size": 4}
STUDY: dict[str, Any] = {
    "seeds": [0],
    "tasks": {
        "toy": {
            "source": {"hub": "some/texts", "revision": "main"},
            "text": ["text"],
            "metrics": ["accuracy"],
            "max_length": 16,
        }
    },
    "teachers": {"big": RECIPE},
    "students": {"small": {**RECIPE, "layers": 1, "teacher": "big"}},
    "regularizers": {"base": {}},
    "distillers": {"kd": {"soft_labels": "teacher", "alpha": 0.5}},
    "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
}
PREPARE = 'prepare.main(["--task", "toy"])'
WITHOUT_TOKEN = f"""
import os
try:
    {PREPARE}
except SystemExit as end:
    print("exit", end.code)
os.environ["HF_TOKEN"] = os.environ["GIVEN_LATER"]
"""
TRAIN = 'train.main(["--task", "toy", "--student", "small", "--regularizer", "base"])'
ALL = [
    PREPARE,
    'teach.main(["--task", "toy", "--teacher", "big"])',
    'cache.main(["--task", "toy", "--teacher", "big"])',
    TRAIN,
    TRAIN.replace("base", "kd"),
]


@dataclass
class Run:
    """The folder of the study, what its processes printed, and what they found on the hub."""

    folder: Path
    first: subprocess.CompletedProcess[str]
    second: subprocess.CompletedProcess[str]
    commits: list[str]
    results: list[dict[str, Any]]
    authorized: int


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages, prepare first without a token; then base once more when the model's `main` has moved."""
    folder, home = tmp_path_factory.mktemp("study"), tmp_path_factory.mktemp("home")
    (folder / "params.yaml").write_text(yaml.safe_dump(STUDY))
    result = folder / "data/trials/toy/small/base/seed-0/result.json"
    with serve() as hub:
        hub.datasets["some/texts"] = Repository(gated=True)
        data = hub.datasets["some/texts"].commit(data_files(*tiny.TEXTS))
        hub.models["some/bert"] = Repository(gated=True)
        model = hub.models["some/bert"].commit(bert(tmp_path_factory.mktemp("old"), seed=1))
        first = stages(hub, folder, home, [WITHOUT_TOKEN, *ALL], GIVEN_LATER=TOKEN)
        results = [json.loads(result.read_text())]
        moved = hub.models["some/bert"].commit(bert(tmp_path_factory.mktemp("new"), seed=2))
        second = stages(hub, folder, home, [TRAIN], HF_TOKEN=TOKEN)
        results.append(json.loads(result.read_text()))
        authorized = sum(headers.get("authorization") == f"Bearer {TOKEN}" for *_, headers in hub.requests)
    return Run(folder, first, second, [data, model, moved], results, authorized)


def bert(folder: Path, seed: int) -> dict[str, bytes]:
    tiny.save_checkpoint(folder, "bert", seed=seed)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stages(
    hub: Hub, folder: Path, home: Path, calls: list[str], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Several stages in one process, since each takes seconds to import what it needs."""
    return subprocess.run(
        [sys.executable, "-c", "\n".join(["from stages import cache, prepare, teach, train", *calls])],
        cwd=folder,
        env=environment_for(hub.url, home, PYTHONPATH=str(ROOT), **environment),
        capture_output=True,
        text=True,
    )


def test_without_a_token_one_error_says_what_to_do(run: Run) -> None:
    assert run.first.stdout.startswith("exit 1\n")
    assert "Traceback" not in run.first.stderr
    errors = [line for line in run.first.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert errors[0].startswith("error: task 'toy': hub data set some/texts at revision main")
    assert errors[0].endswith("then log in with `hf auth login` or set HF_TOKEN")


def test_the_commits_are_on_record(run: Run) -> None:
    assert run.first.returncode == 0, run.first.stderr
    card = json.loads((run.folder / "data/tasks/toy/card.json").read_text())
    teacher = json.loads((run.folder / "data/teachers/toy/big/teacher.json").read_text())
    assert (card["source"]["revision"], card["source"]["commit"]) == ("main", run.commits[0])
    assert (teacher["params"]["revision"], teacher["commit"]) == ("main", run.commits[1])
    assert run.results[0]["params"]["student"]["revision"] == "main"
    assert run.results[0]["commit"] == run.commits[1]


def test_a_moved_branch_is_another_trial_and_says_so(run: Run) -> None:
    assert run.second.returncode == 0, run.second.stderr
    assert (
        "seed-0: removed (its identity changed: other data, parameters, weights or code)" in run.second.stderr
    )
    assert run.results[1]["commit"] == run.commits[2]
    assert run.results[1]["identity"] != run.results[0]["identity"]
    assert run.results[1]["losses"] != run.results[0]["losses"]


def test_trials_from_before_and_after_the_move_are_not_compared(run: Run) -> None:
    """base began at the new commit, kd at the old one."""
    message = rf"students\.small.*some/bert at base seed 0: {run.commits[2]}; kd seed 0: {run.commits[1]}"
    with pytest.raises(ResultsError, match=message):
        read_trials(load_study(run.folder / "params.yaml"), run.folder / "data/trials")


def test_the_token_is_sent_to_the_hub_and_nowhere_else(run: Run) -> None:
    assert run.authorized
    for done in (run.first, run.second):
        assert TOKEN not in done.stdout + done.stderr
        assert "HTTP Request" not in done.stderr  # the HTTP library's own log
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
