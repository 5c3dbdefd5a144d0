"""Caches to and from a hub that is a local stand-in, over real HTTP: what travels, what is refused, what is left.

Nothing here uses a network. Xet, which needs the hub's own storage, is off: large files go by LFS.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdcache.checkpoints.sharing.card import card_of
from kdcache.checkpoints.sharing.remote import Address, parse
from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.logits.opening import open_cache
from kdcache.system.locks import FolderLock
from tests.hub.stand_in import READER, TOKEN, Hub, Repository, serve
from tests.hub.test_hub import ROOT, environment_for
from tests.logits import conftest as logits
from tests.logits.tokens import conftest as tokens

OTHER = logits.FINGERPRINTS.model_copy(update={"weights": "v" * 8})
SHARDS = ["train/part-00000.parquet", "train/part-00001.parquet", "train/part-00002.parquet"]
OWN = ["README.md", "cost.json", "manifest.json", *SHARDS, "validation/part-00000.parquet"]


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class Kdcache:
    """The command line in a process of its own, which lasts."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __call__(self, *arguments: object, token: str | None = TOKEN) -> Done:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"arguments": [str(argument) for argument in arguments], "token": token}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Done(**json.loads(self.process.stdout.readline()))

    def push(self, cache: Path, target: str, *options: object, **more: Any) -> Done:
        return self("push", cache, target, "--licence", "cc-by-4.0", *options, **more)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def start(hub: Hub, home: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.hub.commands"],
        cwd=ROOT,
        env=environment_for(hub.url, home, HF_HUB_DISABLE_XET="1", **environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def kdcache(hub: Hub, home: Path) -> Iterator[Kdcache]:
    with start(hub, home) as process:
        yield Kdcache(process)


@pytest.fixture
def target(request: pytest.FixtureRequest, hub: Hub) -> Iterator[str]:
    """The address of a repository of this test's own, which is not there yet."""
    name = f"some/{request.node.name.translate(str.maketrans('[]', '--'))[:60].strip('-')}"
    yield f"hf://datasets/{name}"
    hub.faults.clear()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return logits.write_cache(tmp_path / "cache")


def at(hub: Hub, target: str) -> Repository:
    return hub.datasets[target.removeprefix("hf://datasets/")]


def files(hub: Hub, target: str) -> dict[str, bytes]:
    """What is there now, but for the hub's own settings."""
    repository = at(hub, target)
    there = repository.commits[repository.branches["main"]]
    return {name: data for name, data in there.items() if name != ".gitattributes"}


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def of_folder(hub: Hub, target: str, cache: Path) -> Repository:
    """A repository with a cache's files, as somebody else may have put them there."""
    repository = hub.datasets[target.removeprefix("hf://datasets/")] = Repository()
    repository.commit(contents(cache))
    return repository


def assert_refused(done: Done, *texts: str) -> None:
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1, done.err
    for text in texts:
        assert text in done.err
    assert TOKEN not in done.err


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- there and back ----


@pytest.mark.parametrize("kind", [logits, tokens], ids=["logits", "tokens"])
def test_what_is_pulled_is_what_was_pushed(
    tmp_path: Path, kdcache: Kdcache, hub: Hub, target: str, kind: Any
) -> None:
    cache = kind.write_cache(tmp_path / "cache")
    done = kdcache.push(cache, target)
    assert (done.code, done.err) == (0, "")
    assert f"uploaded {cache} (32 rows" in done.out
    done = kdcache("pull", target, tmp_path / "a" / "copy", token=None)
    assert (done.code, done.err) == (0, "")
    assert contents(tmp_path / "a" / "copy") == contents(cache)
    assert left(tmp_path / "a") == ["copy"]
    assert open_cache(tmp_path / "a" / "copy").verify("full").rows == 32


def test_one_commit_of_the_cache_s_own_files(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    for name in ("teacher.json", "secrets.env", "train/notes.parquet", "views/manifest.json"):
        (cache / name).parent.mkdir(exist_ok=True)
        (cache / name).write_text("not for others")
    done = kdcache.push(cache, target, "--message", "My logits")
    assert done.code == 0
    there = files(hub, target)
    assert sorted(there) == sorted(OWN)
    assert all(there[name] == (cache / name).read_bytes() for name in OWN if name != "README.md")
    assert len(at(hub, target).commits) == 2  # the hub's own, and this
    assert hub.messages[-1] == "My logits"


def test_a_folder_and_a_branch(tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    first = logits.write_cache(tmp_path / "first", fingerprints=OTHER)
    assert kdcache.push(first, f"{target}/teachers/a").code == 0
    assert kdcache.push(cache, f"{target}/teachers/b").code == 0
    assert sorted(files(hub, target)) == sorted(
        f"teachers/{folder}/{name}" for folder in "ab" for name in OWN
    )
    repository = at(hub, target)
    repository.branches["old"] = repository.branches["main"]
    assert kdcache.push(cache, f"{target}/teachers/a", "--replace").code == 0
    for name, revision, expected in (("new", "main", cache), ("old", "old", first)):
        assert kdcache("pull", f"{target}/teachers/a@{revision}", tmp_path / name).code == 0
        assert contents(tmp_path / name) == contents(expected)
    done = kdcache.push(first, f"{target}/teachers/a@old")
    assert "has this cache already" in done.out


def test_the_card_tells_what_it_is(cache: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    assert kdcache.push(cache, target).code == 0
    card = files(hub, target)["README.md"].decode()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "cc-by-4.0",
        "tags": ["knowledge-distillation", "logits", "kdcache"],
    }
    for fact in (
        "| rows | train 25, validation 7 |",
        "| classes | 3: `no`, `maybe`, `yes` |",
        "| dtype | float32 |",
        "| computed by | test |",
        "| train | accuracy | 0.5000 |",
        f"`{LogitCache(cache).identity}`",
        f"kdcache pull {target} FOLDER --expect weights=wwwwwwww --expect data=dddddddd\n",
        "kdcache verify FOLDER",
    ):
        assert fact in text
    size = sum(len(data) for name, data in contents(cache).items() if name.endswith(".parquet"))
    assert f"{size:,} bytes in 4 shards" in text


def test_names_in_a_card_cannot_steer_it(tmp_path: Path) -> None:
    hostile = logits.FINGERPRINTS.model_copy(update={"weights": "$(rm -rf ~)", "data": "d\n# Title"})
    names = ["`a` | b", "<script>", "c" * 500]
    path = logits.write_cache(tmp_path / "cache", label_names=names, fingerprints=hostile)
    card = card_of(LogitCache(path), parse("hf://datasets/some/thing"), "mit")
    assert "3: ` a    b`, ` script `, `" + "c" * 60 + "...`" in card
    assert "<script>" not in card
    assert "\n# Title" not in card
    assert "FOLDER\n```" in card  # neither fingerprint is in the command


# ---- what is there already ----


def test_the_same_cache_again_uploads_nothing(cache: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    kdcache.push(cache, target)
    commits, asked = len(at(hub, target).commits), len(hub.requests)
    done = kdcache.push(cache, target)
    assert (done.code, done.err) == (0, "")
    assert "has this cache already" in done.out
    assert "nothing was uploaded" in done.out
    assert len(at(hub, target).commits) == commits
    later = {(command, path) for command, path, _ in hub.requests[asked:] if command in ("POST", "PUT")}
    assert later == {("POST", "/api/validate-yaml")}


def test_what_is_missing_there_is_uploaded(cache: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    kdcache.push(cache, target)
    whole, repository = files(hub, target), at(hub, target)
    repository.commit({name: data for name, data in whole.items() if name != SHARDS[1]})
    assert kdcache.push(cache, target).code == 0
    assert files(hub, target) == whole


def test_another_cache_stays_unless_it_is_replaced(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    kdcache.push(cache, target)
    before, commit = files(hub, target), at(hub, target).branches["main"]
    other = logits.write_cache(tmp_path / "other", {"train": 5}, fingerprints=OTHER)
    assert_refused(kdcache.push(other, target), "weights: there wwwwwwww, here vvvvvvvv", "--replace")
    assert files(hub, target) == before
    assert kdcache.push(other, target, "--replace").code == 0
    after = files(hub, target)
    assert sorted(after) == sorted(["README.md", "cost.json", "manifest.json", SHARDS[0]])
    assert "vvvvvvvv" in after["README.md"].decode()
    assert kdcache("pull", f"{target}@{commit}", tmp_path / "old").code == 0
    assert contents(tmp_path / "old") == contents(cache)


def test_other_rows_of_the_same_fingerprints_are_another_cache(
    tmp_path: Path, cache: Path, kdcache: Kdcache, target: str
) -> None:
    kdcache.push(cache, target)
    other = logits.write_cache(tmp_path / "other", {"train": 5})
    assert_refused(kdcache.push(other, target), "its rows, splits or values are others")


def test_somebody_s_readme_stays(cache: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    hub.datasets[target.removeprefix("hf://datasets/")] = Repository()
    at(hub, target).commit({"README.md": b"# Mine"})
    done = kdcache.push(cache, target)
    assert "README.md was there and was left as it is" in done.out
    assert files(hub, target)["README.md"] == b"# Mine"
    assert kdcache.push(cache, target, "--replace").code == 0
    assert b"# Logit cache" in files(hub, target)["README.md"]


def test_somebody_s_files_stay(cache: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    hub.datasets[target.removeprefix("hf://datasets/")] = Repository()
    at(hub, target).commit({SHARDS[0]: b"my data"})
    assert_refused(kdcache.push(cache, target), f"{SHARDS[0]} is there already and is no cache's")
    assert files(hub, target) == {SHARDS[0]: b"my data"}


def test_a_manifest_that_cannot_be_read_is_not_overwritten(
    cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    hub.datasets[target.removeprefix("hf://datasets/")] = Repository()
    at(hub, target).commit({"manifest.json": b'{"format_version": 9, "checksum": ""}'})
    assert_refused(kdcache.push(cache, target), f"{target}/manifest.json", "the newer 9; update kdcache")
    assert sorted(files(hub, target)) == ["manifest.json"]


def test_who_is_slower_is_refused(cache: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    """Somebody commits between the look and the commit."""
    hub.datasets[target.removeprefix("hf://datasets/")] = Repository()
    at(hub, target).commit({"a": b"old"})
    hub.faults["/preupload/"] = lambda: at(hub, target).commit({"a": b"new"})
    done = kdcache.push(cache, target)
    assert_refused(done, "somebody else changed it on the hub meanwhile (HTTP 412); run again")
    assert files(hub, target) == {"a": b"new"}


# ---- what is not pushed ----


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: (path / "manifest.json").unlink(), "there is no manifest.json"),
        (lambda path: (path / SHARDS[1]).unlink(), f"{SHARDS[1]}: the shard is missing"),
        (lambda path: flip(path / SHARDS[2]), f"{SHARDS[2]}: is damaged"),
    ],
    ids=["incomplete", "missing", "damaged"],
)
def test_a_cache_that_is_not_whole_is_not_pushed(
    cache: Path, kdcache: Kdcache, hub: Hub, target: str, harm: Any, message: str
) -> None:
    harm(cache)
    asked = len(hub.requests)
    assert_refused(kdcache.push(cache, target), message)
    assert len(hub.requests) == asked


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_licence_is_required_and_is_one_that_the_hub_knows(
    cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    assert kdcache("push", cache, target).code == 2
    assert_refused(kdcache("push", cache, target, "--licence", "my own"), "is no licence's id")
    assert_refused(kdcache("push", cache, target, "--licence", "bsd-99"), "choose another licence", "bsd-99")
    assert target.removeprefix("hf://datasets/") not in hub.datasets
    assert kdcache("push", cache, target, "--licence", "Apache-2.0").code == 0
    assert b'license: "apache-2.0"' in files(hub, target)["README.md"]


def test_without_a_login(cache: Path, kdcache: Kdcache, target: str) -> None:
    done = kdcache.push(cache, target, token=None)
    assert_refused(done, "pushing needs a login", "log in with `hf auth login` or set HF_TOKEN")


def test_without_the_right_to_write(cache: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    assert_refused(kdcache.push(cache, target, token=READER), "the hub refuses it (HTTP 403)")
    assert target.removeprefix("hf://datasets/") not in hub.datasets


def test_private(cache: Path, tmp_path: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    assert kdcache.push(cache, target, "--private").code == 0
    assert at(hub, target).private
    refused = kdcache("pull", target, tmp_path / "copy", token=None)
    assert_refused(refused, "no such repository, or it is private", "HF_TOKEN")
    assert kdcache("pull", target, tmp_path / "copy", token=READER).code == 0
    at(hub, target).private = False
    other = logits.write_cache(tmp_path / "other", fingerprints=OTHER)
    assert_refused(kdcache.push(other, target, "--private", "--replace"), "there and public")


def test_a_commit_is_no_place_to_push_to(cache: Path, kdcache: Kdcache, target: str) -> None:
    assert_refused(kdcache.push(cache, f"{target}@{'a' * 40}"), "a commit cannot be changed")


def test_a_branch_that_is_not_there(cache: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    assert_refused(kdcache.push(cache, f"{target}@new"), "no such repository")
    kdcache.push(cache, target)
    assert_refused(kdcache.push(cache, f"{target}@new"), "no such revision")


# ---- what is not pulled ----


def test_nothing_there(tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str) -> None:
    assert_refused(kdcache("pull", target, tmp_path / "copy"), "the hub has no such repository")
    kdcache.push(cache, target)
    assert_refused(kdcache("pull", f"{target}@none", tmp_path / "copy"), "the hub has no such revision")
    assert_refused(kdcache("pull", f"{target}/folder", tmp_path / "copy"), "no cache is there")
    assert left(tmp_path) == ["cache"]


@pytest.mark.parametrize("damage", [b"", None], ids=["cut", "missing"])
def test_an_incomplete_cache_is_not_downloaded(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str, damage: bytes | None
) -> None:
    repository = of_folder(hub, target, cache)
    changed = {**files(hub, target), SHARDS[1]: damage}
    repository.commit({name: data for name, data in changed.items() if data is not None})
    assert_refused(kdcache("pull", target, tmp_path / "copy"), f"not as its manifest says: {SHARDS[1]}")
    assert left(tmp_path) == ["cache"]
    assert not [
        path for _, path, _ in hub.requests if f"/{target[5:]}/" in path and path.endswith(".parquet")
    ]


def test_a_damaged_cache_never_gets_its_name(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    whole = contents(cache)
    flip(cache / SHARDS[0])
    repository = of_folder(hub, target, cache)  # of the right size, so only its checksum tells
    assert_refused(kdcache("pull", target, tmp_path / "copy"), "what came is damaged", SHARDS[0])
    assert not (tmp_path / "copy").exists()
    repository.commit(whole)
    assert kdcache("pull", target, tmp_path / "copy").code == 0
    assert contents(tmp_path / "copy") == whole


def test_wrong_names_are_not_downloaded(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    foreign = [
        "run.py",
        "data.pkl",
        "train/extra.parquet",
        "train/part-0.parquet",
        "other/part-00000.parquet",
    ]
    stale = "train/part-00099.parquet"
    repository = of_folder(hub, target, cache)
    repository.commit({**contents(cache), stale: b"of an earlier cache", **dict.fromkeys(foreign, b"x")})
    assert kdcache("pull", target, tmp_path / "copy").code == 0
    assert contents(tmp_path / "copy") == contents(cache)
    name = target.removeprefix("hf://")
    fetched = {path.split("/", 6)[-1] for _, path, _ in hub.requests if path.startswith(f"/{name}/resolve")}
    assert {*contents(cache)} <= fetched
    assert not fetched & {stale, *foreign}


def test_a_cost_that_is_no_small_file_is_not_downloaded(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    repository = of_folder(hub, target, cache)
    repository.commit({**contents(cache), "cost.json": b" " * (17 << 20)})
    assert_refused(kdcache("pull", target, tmp_path / "copy"), "cost.json has 17,825,792 bytes")
    asked = [path for _, path, _ in hub.requests if target.removeprefix("hf://") in path]
    assert not any(path.endswith("cost.json") for path in asked)
    assert not (tmp_path / "copy").exists()


def test_the_folder_stays_as_it_is(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    of_folder(hub, target, cache)
    place, before = tmp_path / "place", contents(cache)
    place.mkdir()
    assert kdcache("pull", target, place).code == 0  # an empty folder is as good as none
    done = kdcache("pull", target, place)
    assert "has this cache already, whole; it stays as it is" in done.out
    flip(place / SHARDS[0])
    assert_refused(kdcache("pull", target, place), "holds this cache, but not whole")
    other = logits.write_cache(tmp_path / "other", fingerprints=OTHER)
    assert_refused(
        kdcache("pull", target, other), f"holds another cache (weights: {other} vvvvvvvv, {target} w"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert_refused(kdcache("pull", target, tmp_path / "mine"), "is there already, and is no cache")
    assert_refused(kdcache("pull", target, tmp_path / "mine" / "notes.txt"), "notes.txt")
    assert contents(cache) == before
    assert left(tmp_path) == ["cache", "mine", "other", "place"]


def test_fingerprints_that_are_expected(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    of_folder(hub, target, cache)
    place = tmp_path / "copy"
    refused = kdcache("pull", target, place, "--expect", "weights=other")
    assert_refused(refused, "expected weights other, found wwwwwwww")
    assert_refused(kdcache("pull", target, place, "--expect", "weights"), "expected NAME=FINGERPRINT")
    assert_refused(kdcache("pull", target, place, "--expect", "teacher=x"), "is no fingerprint's name")
    assert not place.exists()
    identity = f"identity={LogitCache(cache).identity}"
    done = kdcache("pull", target, place, "--expect", "data=dddddddd", "--expect", identity, "--json")
    answer = json.loads(done.out)
    assert answer["fingerprints"] == logits.FINGERPRINTS.model_dump()
    assert answer["rows"] == {"train": 25, "validation": 7}
    assert answer["downloaded"]


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "KDCACHE_MIRROR"])
def test_offline(tmp_path: Path, cache: Path, hub: Hub, home: Path, target: str, name: str) -> None:
    asked = len(hub.requests)
    with start(hub, home, **{name: "1"}) as process:
        offline = Kdcache(process)
        assert_refused(offline("pull", target, tmp_path / "copy"), f"{name} is set", "unset it")
        assert_refused(offline.push(cache, target), f"{name} is set", "unset it")
    assert len(hub.requests) == asked


# ---- interrupted ----


def test_a_killed_pull_leaves_nothing_and_goes_on(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, home: Path, target: str
) -> None:
    kdcache.push(cache, target)  # to LFS: the hub says each shard's sha256
    hub.faults[SHARDS[2]] = "hang"
    place, parts = tmp_path / "copy", tmp_path / ".copy.pull" / "parts"
    with start(hub, home) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"arguments": ["pull", target, str(place)], "token": TOKEN}) + "\n")
        process.stdin.flush()
        while not (parts / SHARDS[1]).is_file():
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not place.exists()
    hub.faults.clear()
    name, asked = target.removeprefix("hf://"), len(hub.requests)
    assert kdcache("pull", target, place).code == 0
    assert contents(place) == contents(cache)
    assert left(tmp_path) == ["cache", "copy"]
    fetched = [path for kind, path, _ in hub.requests[asked:] if kind == "GET" and f"/{name}/resolve" in path]
    assert any(path.endswith(SHARDS[2]) for path in fetched)
    assert not any(path.endswith(SHARDS[1]) for path in fetched)


def test_a_broken_off_pull_leaves_nothing(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    of_folder(hub, target, cache)
    hub.faults[SHARDS[2]] = "break off"
    assert_refused(kdcache("pull", target, tmp_path / "copy"), "the download broke off; run again")
    assert not (tmp_path / "copy").exists()
    hub.faults.clear()
    assert kdcache("pull", target, tmp_path / "copy").code == 0


def test_two_pulls_into_one_folder(
    tmp_path: Path, cache: Path, kdcache: Kdcache, hub: Hub, target: str
) -> None:
    of_folder(hub, target, cache)
    (tmp_path / ".copy.pull").mkdir()
    lock = FolderLock(tmp_path / ".copy.pull")
    assert lock.acquire()
    assert_refused(kdcache("pull", target, tmp_path / "copy"), "another process is pulling into this folder")
    lock.release()
    assert kdcache("pull", target, tmp_path / "copy").code == 0


# ---- addresses ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("o/n", Address("o/n", "", "main")),
        ("o/n/", Address("o/n", "", "main")),
        ("o/n@v1", Address("o/n", "", "v1")),
        ("o/n/a/b.c@v1", Address("o/n", "a/b.c", "v1")),
        ("o/n@v1/a", Address("o/n", "a", "v1")),
        ("o/n@refs/pr/3/a", Address("o/n", "a", "refs/pr/3")),
        ("o/n/a@refs/pr/3", Address("o/n", "a", "refs/pr/3")),
        ("o/n@feature%2Fx", Address("o/n", "", "feature/x")),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse(f"hf://datasets/{text}") == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "o/n",
        "hf://o/n",
        "hf://models/o/n",
        "hf://datasets/n",
        "https://huggingface.co/datasets/o/n",
        "hf://datasets/o/n/../m",
        "hf://datasets/o/n/.cache",
        "hf://datasets/o/n/a*",
        "hf://datasets/o/n@a@b",
        "hf://datasets/o/n@",
        "hf://datasets/o/n@a/f@b",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(CacheError, match=r"is no address of a cache on the hub; write it as hf://datasets/"):
        parse(text)
