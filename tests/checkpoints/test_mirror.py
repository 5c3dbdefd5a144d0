"""KDCACHE_MIRROR: folders in place of hub ids, for models and data sets, with the same identity."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.checkpoints.find import find_checkpoint
from kdcache.checkpoints.mirror import MIRROR, mirrored
from kdcache.errors import KdcacheError, ModelError, TaskError
from kdcache.study import Student, Task
from kdcache.tasks.prepare import prepare_task


def student(checkpoint: str, revision: str | None = "main") -> Student:
    return Student(
        checkpoint=checkpoint, revision=revision, init="scratch", learning_rate=1e-3, epochs=1, batch_size=2
    )


def task(source: dict[str, object]) -> Task:
    return Task(source=source, text=["text"], metrics=["accuracy"], max_length=8)  # type: ignore[arg-type]


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts, "label": [index % 2 for index in range(len(texts))]}), path)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"


def test_without_a_mirror_nothing_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR, raising=False)
    assert mirrored("owner/name") is None


def test_a_mirror_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, str(tmp_path / "absent"))
    with pytest.raises(KdcacheError, match=r"KDCACHE_MIRROR=.*absent: no such folder"):
        mirrored("owner/name")


def test_what_the_mirror_lacks_is_never_asked_of_the_hub(mirror: Path) -> None:
    with pytest.raises(
        ModelError, match=r"checkpoint 'owner/model' is not in the mirror: .*unset KDCACHE_MIRROR"
    ):
        find_checkpoint(student("owner/model"))
    with pytest.raises(TaskError, match=r"'owner/data' is not in the mirror"):
        prepare_task(task({"hub": "owner/data", "revision": "main"}), mirror / "out")


def test_an_id_cannot_leave_the_mirror(mirror: Path) -> None:
    (mirror.parent / "secret").mkdir()
    with pytest.raises(KdcacheError, match="not in the mirror"):
        mirrored("../secret")


def test_a_model_comes_from_the_mirror(mirror: Path) -> None:
    folder = mirror / "owner" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert find_checkpoint(student("owner/model")).folder == folder


def test_a_mirrored_model_needs_its_revision_too(mirror: Path) -> None:
    """Or the study would run here and not on a machine with a network."""
    with pytest.raises(ModelError, match="give its revision"):
        find_checkpoint(student("owner/model", revision=None))


def test_a_data_set_has_the_fingerprint_of_its_files(mirror: Path) -> None:
    folder = mirror / "owner" / "data" / "small"
    write(folder / "train.parquet", ["a", "b", "c", "d"])
    write(folder / "test.parquet", ["e", "f"])
    hub = {"hub": "owner/data", "name": "small", "revision": "main", "splits": {"validation": "test"}}
    files = {"train": str(folder / "train.parquet"), "validation": str(folder / "test.parquet")}
    card = prepare_task(task(hub), mirror / "from-hub")
    assert card.fingerprint == prepare_task(task({"files": files}), mirror / "from-files").fingerprint
    assert card.source["hub"] == "owner/data"
    assert set(card.source["mirrored"]) == {"train", "validation"}


def test_a_data_set_without_configurations(mirror: Path) -> None:
    write(mirror / "owner" / "data" / "train.parquet", ["a", "b"])
    write(mirror / "owner" / "data" / "validation.parquet", ["c", "d"])
    card = prepare_task(task({"hub": "owner/data", "revision": "main"}), mirror / "out")
    assert card.rows == {"train": 2, "validation": 2}


def test_a_split_that_the_mirror_lacks(mirror: Path) -> None:
    write(mirror / "owner" / "data" / "train.parquet", ["a", "b"])
    with pytest.raises(TaskError, match=r"validation: .*validation\.parquet: the file does not exist"):
        prepare_task(task({"hub": "owner/data", "revision": "main"}), mirror / "out")
