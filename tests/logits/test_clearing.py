"""What writing a cache removes: an earlier cache's own files, and nothing of anybody else's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache import write_logits
from kdcache.errors import CacheError
from kdcache.logits import LogitWriter
from kdcache.logits.ensemble import ensemble
from tests.logits.conftest import FINGERPRINTS, write_cache


def by_writer(path: Path) -> None:
    with LogitWriter(path, classes=2, label_names=[], fingerprints=FINGERPRINTS) as writer:
        writer.write("train", [0], np.array([1], np.uint64), np.zeros((1, 2), np.float32))
        writer.finish()


def by_model(path: Path) -> None:
    rows = [{"x": float(k), "label": k} for k in range(3)]
    write_logits(
        lambda x: np.zeros((len(x), 2), np.float32),
        rows,
        path,
        label="label",
        fingerprints=FINGERPRINTS,
        overwrite=True,
    )


def by_ensemble(path: Path) -> None:
    members = path.parent / "members"
    if not members.exists():
        write_cache(members)
    ensemble([members], path)


WAYS = [by_writer, by_model, by_ensemble]


def foreign(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": [1, 2]}), path)
    return path


def text(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not a Parquet file")
    return path


def manifest(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"name": "my web app", "version": 3}')
    return path


def manifest_with_a_version(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"format_version": 3, "checksum": "of my own", "assets": []}')
    return path


def broken_manifest(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{name: 'json5', // of an app\n}")
    return path


def cost(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"seconds": "of my own"}')
    return path


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


FOREIGN: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "Spark": ("train/part-00000-5e1b-c000.snappy.parquet", foreign),
    "the name of a shard": ("train/part-00000.parquet", foreign),
    "a hive partition": ("year=2024/part-00000.parquet", foreign),
    "another split's folder": ("other/part-00000.parquet", foreign),
    "a text with the name of a shard": ("train/part-00003.parquet", text),
    "a manifest": ("manifest.json", manifest),
    "a manifest with a version and a checksum": ("manifest.json", manifest_with_a_version),
    "a manifest that is no JSON": ("manifest.json", broken_manifest),
    "a cost": ("cost.json", cost),
    "a cost that is no JSON": ("cost.json", text),
    "a pipe as a manifest": ("manifest.json", pipe),
    "a pipe as a shard": ("train/part-00000.parquet", pipe),
}


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_nothing_of_anybody_elses_is_removed(
    tmp_path: Path, kind: str, write: Callable[[Path], None]
) -> None:
    name, make = FOREIGN[kind]
    folder = tmp_path / "folder"
    make(folder / name)
    before = listing(folder)
    if name.startswith("year="):  # no split has such a name: nothing there is looked at
        write(folder)
        assert listing(folder).items() >= before.items()
        return
    with pytest.raises(CacheError, match=name):
        write(folder)
    assert listing(folder) == before


@pytest.mark.parametrize("write", WAYS)
def test_a_cache_beside_somebody_elses_file_is_not_touched_either(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    folder = write_cache(tmp_path / "folder")
    foreign(folder / "train" / "part-00001-abc.parquet")
    before = listing(folder)
    with pytest.raises(CacheError, match=r"part-00001-abc\.parquet: no logit cache wrote this file"):
        write(folder)
    assert listing(folder) == before


@pytest.mark.parametrize("write", WAYS)
def test_links_are_not_followed(tmp_path: Path, write: Callable[[Path], None]) -> None:
    outside = write_cache(tmp_path / "outside")
    before = listing(outside)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "validation").symlink_to(outside / "validation", target_is_directory=True)
    if write is by_ensemble:  # which writes this split
        with pytest.raises(CacheError, match="validation: is a link"):
            write(folder)
    else:
        write(folder)
    assert listing(outside) == before
    assert (folder / "validation").is_symlink()
    (folder / "train").mkdir(exist_ok=True)
    linked = folder / "train" / "part-00007.parquet"  # a link to a shard: the link goes, not the shard
    linked.symlink_to(outside / "train" / "part-00000.parquet")
    if write is not by_ensemble:
        (folder / "manifest.json").unlink()  # else the model's cache is complete, and only opened
        write(folder)
        assert not linked.is_symlink()
    assert listing(outside) == before


@pytest.mark.parametrize("write", WAYS)
def test_an_earlier_caches_files_go(tmp_path: Path, write: Callable[[Path], None]) -> None:
    folder, fresh = tmp_path / "folder", tmp_path / "fresh"
    write(fresh)
    write_cache(folder, {"train": 25, "dev": 12})
    (folder / "dev" / "part-00001.parquet").write_bytes(b"PAR1 damaged")
    (folder / "dev" / ".part-00002.parquet.0a1b2c.tmp").write_bytes(b"left by a killed process")
    (folder / "dev" / ".notes.tmp").write_bytes(b"not ours")
    (folder / "README.md").write_text("not ours")
    write(folder)
    rest = {name: data for name, data in listing(folder).items() if not name.endswith("cost.json")}
    expected = {name: data for name, data in listing(fresh).items() if not name.endswith("cost.json")}
    assert rest == {**expected, "README.md": b"not ours", "dev": b"", "dev/.notes.tmp": b"not ours"}


@pytest.mark.parametrize(
    "damaged", [b"", b'{"format_version": 1, "rows_per_shard": 10, '], ids=["empty", "cut"]
)
def test_a_damaged_manifest_of_a_cache_goes(tmp_path: Path, damaged: bytes) -> None:
    folder = write_cache(tmp_path / "folder")
    (folder / "manifest.json").write_bytes(damaged)
    by_writer(folder)


def test_a_damaged_cost_of_a_cache_goes(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "folder")
    (folder / "cost.json").write_bytes(b'{"seconds": ')
    by_writer(folder)
