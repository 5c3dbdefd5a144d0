"""Hub data sets and their mirror: what each delivers, and what each failure says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdcache.errors import TaskError
from kdcache.study import Task
from kdcache.tasks.sources import load_source
from tests.tasks.files import ROWS, parquet, read

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def hub_task(**changes: Any) -> Task:
    source = {"hub": "someone/things", "name": "small", "revision": COMMIT, **changes}
    given = {"source": source, "text": ["text"], "metrics": ["accuracy"], "max_length": 8}
    return Task.model_validate(given)


def serve(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    """Replace datasets.load_dataset: record its calls; return, or raise, `answer`."""
    import datasets

    calls: list[tuple[Any, ...]] = []

    def load_dataset(hub: str, name: str | None, *, revision: str, split: str) -> Any:
        calls.append((hub, name, revision, split))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def hub_rows() -> Any:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    return Dataset.from_dict(ROWS, features=features)


def test_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = serve(monkeypatch, hub_rows())
    loaded = load_source(hub_task(splits={"validation": "test"}))
    assert calls == [
        ("someone/things", "small", COMMIT, "train"),
        ("someone/things", "small", COMMIT, "test"),
    ]
    assert read(loaded, "validation") == ROWS
    assert loaded.splits["train"].names == ["neg", "pos"]
    assert loaded.resolved["commit"] == COMMIT


def test_further_splits_of_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = serve(monkeypatch, hub_rows())
    names = {"validation": "validation_matched", "validation_mismatched": "validation_mismatched"}
    loaded = load_source(hub_task(splits=names))
    assert list(loaded.splits) == ["train", "validation", "validation_mismatched"]
    assert [call[-1] for call in calls] == ["train", "validation_matched", "validation_mismatched"]


def test_further_splits_of_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "someone/things/small"
    folder.mkdir(parents=True)
    for split, row in {"train": 0, "matched": 1, "mismatched": 2}.items():
        parquet(folder / f"{split}.parquet", {key: values[row : row + 1] for key, values in ROWS.items()})
    monkeypatch.setenv("KDCACHE_MIRROR", str(tmp_path))
    loaded = load_source(hub_task(splits={"validation": "matched", "validation_mismatched": "mismatched"}))
    assert list(loaded.splits) == ["train", "validation", "validation_mismatched"]
    assert read(loaded, "validation_mismatched") == {"text": ["fine, really"], "label": [1]}


@pytest.fixture
def mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror's folder of the data set, with train and test."""
    folder = tmp_path / "someone/things/small"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        parquet(folder / f"{split}.parquet", ROWS)
    monkeypatch.setenv("KDCACHE_MIRROR", str(tmp_path))
    return folder


@pytest.mark.parametrize("part", ["train[:50%]", "train+test", "test[:1]+train"])
def test_a_mirror_has_no_parts_of_splits(mirrored: Path, part: str) -> None:
    with pytest.raises(TaskError) as refused:
        load_source(hub_task(splits={"validation": part}))
    assert str(refused.value) == (
        f"hub data set someone/things (small) at revision {COMMIT}, split {part!r}: a mirror has whole splits alone; "
        "put these rows there as a file of their own and name it in splits, or unset KDCACHE_MIRROR to ask the hub"
    )


def test_a_split_that_a_mirror_lacks(mirrored: Path) -> None:
    with pytest.raises(TaskError) as refused:
        load_source(hub_task())
    assert str(refused.value) == (
        f"validation: {mirrored}/validation.parquet: the file does not exist (splits in this folder of the mirror: "
        "test, train); put it there, or unset KDCACHE_MIRROR to ask the hub"
    )
    with pytest.raises(TaskError, match=r"other/train\.parquet: the file does not exist .*mirror: none\)"):
        load_source(hub_task(name="other"))
    with pytest.raises(TaskError, match="cannot be read: "):
        load_source(hub_task(splits={"train": "x" * 300, "validation": "test"}))


def test_a_shuffled_hub_data_set_keeps_labels_with_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, hub_rows().select([2, 0]))
    assert read(load_source(hub_task())) == {"text": ["fine, really", "good film"], "label": [1, 1]}


def test_a_branch_is_resolved_to_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    class Api:
        def resolve_revision(self, name: str, repo_type: str, revision: str) -> Any:
            asked.append((name, repo_type, revision))
            return SimpleNamespace(resolved=COMMIT)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    calls = serve(monkeypatch, hub_rows())
    loaded = load_source(hub_task(revision="main"))
    assert asked == [("someone/things", "dataset", "main")]
    assert calls[0][2] == COMMIT
    assert loaded.resolved == {"hub": "someone/things", "name": "small", "revision": "main", "commit": COMMIT}


def test_another_cached_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "f" * 40
    rows = hub_rows()
    file = {"filename": f"/cache/someone___things/small/0.0.0/{other}/things-train.arrow"}
    monkeypatch.setattr(type(rows), "cache_files", [file])
    serve(monkeypatch, rows)
    with pytest.raises(TaskError, match=f"asked for commit {COMMIT}, but .* cache has only {other}"):
        load_source(hub_task())
    monkeypatch.setattr(type(rows), "cache_files", [{"filename": file["filename"].replace(other, COMMIT)}])
    assert read(load_source(hub_task())) == ROWS


def http_error(kind: Any, status: int) -> Exception:
    from huggingface_hub import errors

    response = SimpleNamespace(status_code=status, headers={}, request=None)
    error: Exception = getattr(errors, kind)("no", response=response)
    return error


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"refuses it \(HTTP 401\).*hf auth login"),
        (403, r"refuses it \(HTTP 403\).*hf auth login"),
        (404, r"no such thing \(HTTP 404\); check the name and the revision"),
        (503, r"fails \(HTTP 503\); try again later, or download its files and use `files`"),
    ],
)
def test_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, status: int, message: str) -> None:
    serve(monkeypatch, http_error("HfHubHTTPError", status))
    with pytest.raises(TaskError, match=message):
        load_source(hub_task())


def test_the_hub_has_no_such_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets.exceptions import DatasetNotFoundError

    serve(monkeypatch, DatasetNotFoundError("Dataset 'someone/things' doesn't exist"))
    message = (
        rf"hub data set someone/things \(small\) at revision {COMMIT}, split 'train': the hub has no such"
    )
    with pytest.raises(TaskError, match=message):
        load_source(hub_task())


@pytest.mark.parametrize("kind", [ConnectionError, TimeoutError])
def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    serve(monkeypatch, kind("Couldn't reach the hub"))
    message = r"the hub cannot be reached; check the network .*use `files`.*Couldn't reach the hub\)$"
    with pytest.raises(TaskError, match=message):
        load_source(hub_task())


def test_other_hub_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, ValueError("Unknown split \"validation\". Should be one of ['train', 'test']."))
    with pytest.raises(
        TaskError, match=r"check its name, configuration, revision and splits .*Unknown split"
    ):
        load_source(hub_task())


def test_hub_columns_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = hub_rows()
    serve(monkeypatch, rows.rename_column("text", "sentence"))
    with pytest.raises(TaskError, match="split 'train': no column 'text'; there are: sentence, label"):
        load_source(hub_task())
    serve(monkeypatch, rows.select([]))
    with pytest.raises(TaskError, match="split 'train': there are no rows"):
        load_source(hub_task())


def test_a_local_folder_of_the_hubs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "someone" / "things").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="someone/things: is a local path; use `files`"):
        load_source(hub_task())
