"""Finding checkpoints: folders that are none, hubs that answer or do not, and what makes two of them the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from kdcache.checkpoints import find
from kdcache.checkpoints.checkpoint import Checkpoint, read_settings
from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import ModelError
from kdcache.study import Student


def student(checkpoint: Path | str, **changes: Any) -> Student:
    return Student(checkpoint=str(checkpoint), learning_rate=1e-3, epochs=1, batch_size=8, **changes)


def checkpoint(folder: Path, weights: str = "model.safetensors", **config: Any) -> Path:
    """A folder that looks like a checkpoint; its one tensor has two bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 2, **config}))
    (folder / "tokenizer.json").write_text('{"model": {}}')
    header = json.dumps({"w": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (folder / weights).write_bytes(len(header).to_bytes(8, "little") + header + b"\x00\x3c")
    return folder


def folder_of(found: Checkpoint | None) -> Path | None:
    return None if found is None else found.folder


# ---- folders ----


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    assert find_checkpoint(student(folder)).folder == folder
    assert find_checkpoint(student(folder)).family == "bert"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "preprocessor_config.json", "vocab.txt"]
)
def test_a_pipe_is_not_opened(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=f"{name}: is a pipe, socket or device; put a regular file there"):
        find_checkpoint(student(folder))


def test_a_pipe_that_comes_later_is_not_opened(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    found = find_checkpoint(student(folder))
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors: is no regular file"):
        found.weights  # noqa: B018
    os.mkfifo(folder / "preprocessor_config.json")
    with pytest.raises(ModelError, match=r"preprocessor_config\.json: is no regular file"):
        read_settings(folder / "preprocessor_config.json")


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json, so this is not a model"):
        find_checkpoint(student(tmp_path))


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe"])
def test_a_config_that_is_not_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json: not valid JSON"):
        find_checkpoint(student(tmp_path))


def test_a_config_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ModelError, match=r"config\.json: expected a JSON object, found list"):
        find_checkpoint(student(tmp_path))


def test_a_config_without_model_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"config\.json: expected an object with model_type"):
        find_checkpoint(student(tmp_path))


def test_weights_are_missing_or_pickled(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, weights="pytorch_model.bin")
    with pytest.raises(ModelError, match=r"needs weights in \*\.safetensors, found .*pytorch_model\.bin"):
        find_checkpoint(student(folder))
    assert find_checkpoint(student(folder, init="scratch")).folder == folder


# ---- the hub ----


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], list[dict[str, Any]]]]:
    """Let the hub answer with a folder or an error; the requests are returned."""
    find._download.cache_clear()

    def answer(value: Any) -> list[dict[str, Any]]:
        requests: list[dict[str, Any]] = []

        def download(name: str, **options: Any) -> str:
            requests.append({"name": name, **options})
            if isinstance(value, Exception):
                raise value
            return str(value)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return requests

    yield answer
    find._download.cache_clear()


def test_a_hub_checkpoint_is_asked_for_once(tmp_path: Path, hub: Any) -> None:
    requests = hub(checkpoint(tmp_path))
    model = student("some/model", revision="abc")
    assert [find_checkpoint(model).folder, find_checkpoint(model).folder] == [tmp_path, tmp_path]
    assert len(requests) == 1
    assert (requests[0]["name"], requests[0]["revision"]) == ("some/model", "abc")
    assert "model.safetensors" in requests[0]["allow_patterns"]
    assert requests[0]["ignore_patterns"] == ["*/*"]
    assert not any(word in "".join(requests[0]["allow_patterns"]) for word in (".bin", ".py", ".pt"))


def test_from_scratch_no_weights_are_downloaded(tmp_path: Path, hub: Any) -> None:
    requests = hub(checkpoint(tmp_path))
    find_checkpoint(student("some/model", revision="abc", init="scratch"))
    assert not any("safetensors" in pattern for pattern in requests[0]["allow_patterns"])


def test_what_is_on_this_machine_is_found_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **_: pytest.fail("the network was asked"))
    commit = "a" * 40
    model = student("some/model", revision=commit)
    assert find.find_local(model) is None
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / commit
    checkpoint(snapshot)
    assert folder_of(find.find_local(model)) == snapshot
    assert find.find_local(student("some/model", revision="b" * 40)) is None
    (snapshot / "model.safetensors").unlink()
    assert find.find_local(model) is None
    assert folder_of(find.find_local(student("some/model", revision=commit, init="scratch"))) == snapshot


def test_folders_and_the_mirror_are_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "mirror" / "some" / "model")
    assert folder_of(find.find_local(student(folder))) == folder
    assert find.find_local(student(tmp_path)) is None  # no config.json
    assert find.find_local(student(tmp_path / "a" / "b" / "c")) is None
    monkeypatch.setenv("KDCACHE_MIRROR", str(tmp_path / "mirror"))
    assert folder_of(find.find_local(student("some/model", revision="main"))) == folder
    assert find.find_local(student("another/model", revision="main")) is None


def test_a_hub_id_without_revision() -> None:
    with pytest.raises(
        ModelError, match="'some/model': no such folder; if it is a hub id, give its revision"
    ):
        find_checkpoint(student("some/model"))


class Response:
    """As much of an HTTP response as the hub's errors look at."""

    def __init__(self, status: int) -> None:
        self.status_code = status
        self.headers: dict[str, str] = {}
        self.request = None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            GatedRepoError("403", response=Response(403)),
            "'some/model' at revision 'abc': it is gated: accept",
        ),
        (RepositoryNotFoundError("404", response=Response(404)), "has no such repository, or it is private"),
        (
            LocalEntryNotFoundError("offline"),
            "the hub cannot be reached, and the local cache does not have it",
        ),
        (RuntimeError("it rains"), r"cannot be had from the hub \(RuntimeError: it rains\)"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_the_hub_can_answer(hub: Any, error: Exception, message: str) -> None:
    hub(error)
    with pytest.raises(ModelError, match=message):
        find_checkpoint(student("some/model", revision="abc"))


def test_offline(tmp_path: Path) -> None:
    """HF_HUB_OFFLINE is read when the hub's client is imported, hence a process of its own."""
    script = """
import sys
from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import ModelError
from kdcache.study import Model
try:
    find_checkpoint(Model(checkpoint="some/model", revision="main", learning_rate=1, epochs=1, batch_size=1))
except ModelError as error:
    print(error)
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("checkpoint 'some/model' at revision 'main': HF_HUB_OFFLINE is set")
    assert len(done.stdout.splitlines()) == 1


# ---- fingerprints ----


def test_the_weights_count_only_when_the_model_starts_from_them(tmp_path: Path) -> None:
    one, same, other = (checkpoint(tmp_path / name) for name in ("one", "same", "other"))
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-1] + b"\x3d")
    assert (
        find_checkpoint(student(one)).weights_fingerprint
        == find_checkpoint(student(same)).weights_fingerprint
    )
    assert (
        find_checkpoint(student(one)).weights_fingerprint
        != find_checkpoint(student(other)).weights_fingerprint
    )
    scratch = [
        find_checkpoint(student(folder, init="scratch")).weights_fingerprint for folder in (one, other)
    ]
    assert scratch[0] == scratch[1]
    assert scratch[0] != find_checkpoint(student(one)).weights_fingerprint
    assert (
        find_checkpoint(student(one, layers=1)).weights_fingerprint
        != find_checkpoint(student(one)).weights_fingerprint
    )
    wider = checkpoint(tmp_path / "wider", hidden_size=64)
    assert find_checkpoint(student(wider, init="scratch")).weights_fingerprint != scratch[0]


def test_the_tokenizer_and_the_length_count(tmp_path: Path) -> None:
    one, other = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "other")
    first = find_checkpoint(student(one)).preprocessing_fingerprint(16)
    assert find_checkpoint(student(other)).preprocessing_fingerprint(16) == first
    assert find_checkpoint(student(one)).preprocessing_fingerprint(17) != first
    (other / "tokenizer.json").write_text('{"model": {"lowercase": true}}')
    assert find_checkpoint(student(other)).preprocessing_fingerprint(16) != first


def test_an_image_model_may_have_its_config_only(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / "tokenizer.json").unlink()
    assert find_checkpoint(student(folder)).preprocessing_fingerprint(None)
    with pytest.raises(ModelError, match="no tokenizer or preprocessor file"):
        find_checkpoint(student(folder)).preprocessing_fingerprint(16)
