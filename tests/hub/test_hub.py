"""Models and data sets from a hub that is a local stand-in: what comes, what does not, and what people are told.

Nothing here uses a network: HF_ENDPOINT names the stand-in, HF_HOME an empty folder.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.checkpoints.hub import explain
from tests.hub.stand_in import TOKEN, Hub, Repository, serve

ROOT = Path(__file__).parents[2]
TROUBLES = ("gated", "private", "slow", "cut", "down", "forbidden", "resumed")
LOGIN = r"log in with `hf auth login` or set HF_TOKEN"


def weights(value: int) -> bytes:
    """A safetensors file of a thousand bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([value]) * 1000


def model_files(value: int, readme: bytes = b"# A model") -> dict[str, bytes]:
    return {
        "README.md": readme,
        "config.json": b'{"model_type": "bert"}',
        "tokenizer.json": b"{}",
        "model.safetensors": weights(value),
        "pytorch_model.bin": b"a pickle",
        "modeling.py": b"raise SystemExit('code of a model is never run')",
        "onnx/model.safetensors": b"a copy",
    }


def data_files(*texts: str) -> dict[str, bytes]:
    rows = {"text": list(texts), "label": [row % 2 for row in range(len(texts))]}
    splits = {f"data/{split}-00000-of-00001.parquet": parquet(rows) for split in ("train", "validation")}
    return {"README.md": b"---\nlicense: mit\n---\n# Data", **splits}


def parquet(rows: dict[str, list[Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(rows), file)
    return file.getvalue()


def ask(hub: str, home: Path, *asks: tuple[str, str, str], **environment: str) -> list[dict[str, Any]]:
    """What kdcache answers in a process of its own to (kind, name, revision),"""
    wanted = [{"kind": kind, "name": name, "revision": revision} for kind, name, revision in asks]
    done = subprocess.run(
        [sys.executable, "-m", "tests.hub.ask"],
        cwd=ROOT,
        env=environment_for(hub, home, **environment),
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def environment_for(hub: str, home: Path, **changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "KDCACHE_"))}
    return {**kept, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_ETAG_TIMEOUT": "5", **changes}


@dataclass
class Story:
    """Three processes on one local cache: before both `main`s moved, after, and then without the hub."""

    commits: dict[str, list[str]]
    before: dict[tuple[str, str, str], dict[str, Any]]
    after: dict[tuple[str, str, str], dict[str, Any]]
    offline: dict[tuple[str, str, str], dict[str, Any]]
    requests: list[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    home = tmp_path_factory.mktemp("home")
    with serve() as hub:
        commits = fill(hub)
        asks = [(kind, "some/thing", commits[kind][0]) for kind in commits]
        asks += [(kind, "some/thing", "main") for kind in commits]
        asks += [(kind, f"some/{trouble}", "main") for kind in commits for trouble in (*TROUBLES, "missing")]
        asks += [(kind, "some/thing", revision) for kind in commits for revision in ("no-branch", "e" * 40)]
        asks += [("model", "some/documented", "main")]
        before = dict(zip(asks, ask(hub.url, home, *asks), strict=True))
        requests = [path for _, path, _ in hub.requests]
        ranges = [path for _, path, headers in hub.requests if "range" in headers]
        assert any("some/resumed" in path for path in ranges)

        hub.faults.clear()
        hub.models["some/documented"].commit(model_files(3, readme=b"# A model, and what it is for"))
        commits["model"].append(hub.models["some/thing"].commit(model_files(2)))
        commits["data"].append(hub.datasets["some/thing"].commit(data_files("new", "rows")))
        asks = [(kind, "some/thing", revision) for kind in commits for revision in ("main", commits[kind][0])]
        asks += [("model", "some/documented", "main"), *((kind, "some/cut", "main") for kind in commits)]
        after = dict(zip(asks, ask(hub.url, home, *asks), strict=True))

        hub.requests.clear()
        asks = [(kind, "some/thing", revision) for kind in commits for revision in (*commits[kind], "main")]
        asks += [(kind, "some/other", revision) for kind in commits for revision in ("main", "e" * 40)]
        offline = dict(zip(asks, ask(hub.url, home, *asks, HF_HUB_OFFLINE="1"), strict=True))
        assert not hub.requests
        yield Story(commits, before, after, offline, requests)


def fill(hub: Hub) -> dict[str, list[str]]:
    """A model and a data set of one commit each, and others with every trouble; the commits of the good ones."""
    for trouble in TROUBLES:
        locks = {"gated": trouble == "gated", "private": trouble == "private"}
        hub.models[f"some/{trouble}"] = Repository(**locks)
        hub.models[f"some/{trouble}"].commit(model_files(len(trouble)))
        hub.datasets[f"some/{trouble}"] = Repository(**locks)
        hub.datasets[f"some/{trouble}"].commit(data_files(trouble, "row"))
    hub.faults = {
        "some/slow/revision": "hang",
        "some/down/revision": 503,
        "some/forbidden/revision": 403,
    }
    for trouble, fault in (("cut", "break off"), ("resumed", "break off once")):
        for repository, file in (
            (hub.models, "model.safetensors"),
            (hub.datasets, "data/train-00000-of-00001.parquet"),
        ):
            commit = repository[f"some/{trouble}"].branches["main"]
            hub.faults[f"some/{trouble}/resolve/{commit}/{file}"] = fault
    hub.models["some/documented"] = Repository()
    hub.models["some/documented"].commit(model_files(3))
    hub.models["some/thing"] = Repository()
    hub.datasets["some/thing"] = Repository()
    return {
        "model": [hub.models["some/thing"].commit(model_files(1))],
        "data": [hub.datasets["some/thing"].commit(data_files("old", "rows"))],
    }


# ---- what comes ----


def test_only_settings_and_safetensors_are_fetched(story: Story) -> None:
    found = story.before["model", "some/thing", "main"]
    assert found["files"] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert not [
        path
        for path in story.requests
        if re.search(r"\.bin|\.py|onnx", path) and "some/thing" in path and "datasets" not in path
    ]


@pytest.mark.parametrize("kind", ["model", "data"])
def test_a_branch_is_the_commit_that_it_points_to(story: Story, kind: str) -> None:
    first, second = story.commits[kind]
    assert story.before[kind, "some/thing", "main"]["commit"] == first
    assert story.after[kind, "some/thing", "main"]["commit"] == second
    assert story.before[kind, "some/thing", "main"] != story.after[kind, "some/thing", "main"]


@pytest.mark.parametrize("kind", ["model", "data"])
def test_a_pinned_commit_stays_when_the_branch_has_moved(story: Story, kind: str) -> None:
    first = story.commits[kind][0]
    assert story.before[kind, "some/thing", first] == story.after[kind, "some/thing", first]
    assert story.after[kind, "some/thing", first]["commit"] == first


def test_what_is_in_each_commit(story: Story) -> None:
    assert story.before["model", "some/thing", "main"]["weights"] == weights(1).hex()
    assert story.after["model", "some/thing", "main"]["weights"] == weights(2).hex()
    assert story.before["data", "some/thing", "main"]["texts"]["train"] == ["old", "rows"]
    assert story.after["data", "some/thing", "main"]["texts"]["validation"] == ["new", "rows"]


def test_what_a_model_starts_from_is_its_content_not_its_commit(story: Story) -> None:
    old, new = (asked["model", "some/documented", "main"] for asked in (story.before, story.after))
    assert old["commit"] != new["commit"]
    assert old["start"] == new["start"]
    old, new = (asked["model", "some/thing", "main"] for asked in (story.before, story.after))
    assert old["start"] != new["start"]


# ---- what does not ----


@pytest.mark.parametrize("kind", ["model", "data"])
@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("gated", "main", rf"it is gated: accept its conditions on its page on the hub, then {LOGIN}$"),
        ("private", "main", rf"the hub has no such repository, or it is private; check its name, or {LOGIN}$"),
        ("missing", "main", rf"the hub has no such repository, or it is private; check its name, or {LOGIN}$"),
        ("forbidden", "main", rf"the hub refuses it \(HTTP 403\); the access token may lack .*: {LOGIN} \("),
        ("thing", "no-branch", r"the hub has no such revision of it; give a branch, a tag or a whole commit hash$"),
        ("thing", "e" * 40, r"the hub has no such revision of it; give a branch, a tag or a whole commit hash$"),
        ("slow", "main", r"the hub cannot be reached; check the network and HF_ENDPOINT, or .* \(.*timed out\)$"),
        ("down", "main", r"the hub fails \(HTTP 503\); try again later, or "),
        ("cut", "main", r"the download broke off; run again, or .* \(RemoteProtocolError: "),
    ],
    ids=["gated", "private", "missing", "forbidden", "branch", "commit", "timeout", "503", "partial"],
)  # fmt: skip
def test_one_clear_error(story: Story, kind: str, name: str, revision: str, message: str) -> None:
    error = story.before[kind, f"some/{name}", revision]["error"]
    subject = "checkpoint 'some/" if kind == "model" else "hub data set some/"
    assert error.startswith(f"{subject}{name}")
    assert revision in error
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"  # bound, so nobody else takes it, but not listening
        answers = ask(url, tmp_path, ("model", "some/thing", "main"), ("data", "some/thing", "main"))
    for answer, instead in zip(answers, ("use a local folder", "use `files`"), strict=True):
        assert "the hub cannot be reached; check the network and HF_ENDPOINT, or " in answer["error"]
        assert instead in answer["error"]
        assert "Connection refused" in answer["error"]


def test_a_token_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """An HTTP library that refuses a header prints it."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for text in (
        f"illegal header b'Bearer {TOKEN}'",
        "illegal header b'Bearer hf_other'",
        f"no such token: {TOKEN}",
    ):
        message = explain(ValueError(text), "use a folder", "cannot be had")
        assert message.startswith("cannot be had (ValueError: ")
        assert message.endswith(text.split(" ")[-1].replace(TOKEN, "***").replace("hf_other", "***") + ")")
        assert "hf_" not in message


@pytest.mark.parametrize("kind", ["model", "data"])
def test_a_download_goes_on_where_it_broke_off(story: Story, kind: str) -> None:
    """The stand-in saw the client ask for the rest (see the fixture); the file is whole."""
    found = story.before[kind, "some/resumed", "main"]
    if kind == "model":
        assert found["weights"] == weights(len("resumed")).hex()
    else:
        assert found["texts"]["train"] == ["resumed", "row"]


@pytest.mark.parametrize("kind", ["model", "data"])
def test_after_a_broken_download_another_run_gets_it(story: Story, kind: str) -> None:
    assert "error" in story.before[kind, "some/cut", "main"]
    assert "error" not in story.after[kind, "some/cut", "main"]


# ---- without the hub ----


@pytest.mark.parametrize("kind", ["model", "data"])
def test_offline_every_cached_commit_is_there(story: Story, kind: str) -> None:
    """Not only the newest, which is what `datasets` would take."""
    first, second = story.commits[kind]
    assert story.offline[kind, "some/thing", first] == story.after[kind, "some/thing", first]
    assert story.offline[kind, "some/thing", second] == story.after[kind, "some/thing", "main"]


@pytest.mark.parametrize("kind", ["model", "data"])
def test_offline_a_branch_is_what_it_last_was(story: Story, kind: str) -> None:
    assert story.offline[kind, "some/thing", "main"] == story.after[kind, "some/thing", "main"]


@pytest.mark.parametrize("kind", ["model", "data"])
@pytest.mark.parametrize("revision", ["main", "e" * 40])
def test_offline_what_was_never_fetched(story: Story, kind: str, revision: str) -> None:
    error = story.offline[kind, "some/other", revision]["error"]
    assert re.search(r"HF_HUB_OFFLINE is set, .*; run once without HF_HUB_OFFLINE, or ", error), error
    assert len(error.splitlines()) == 1
