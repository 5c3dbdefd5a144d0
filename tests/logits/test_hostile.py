"""What a cache's folder may hold that no writer put there: pipes, devices, huge files; and folders that go away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdcache.errors import CacheError
from kdcache.hashing import fingerprint
from kdcache.logits import LogitCache, LogitWriter, parquet
from tests.logits.conftest import FINGERPRINTS, rows, write_cache

REPO = Path(__file__).parents[2]


def writer(path: Path, **options) -> LogitWriter:
    return LogitWriter(
        path, classes=3, label_names=[], fingerprints=FINGERPRINTS, rows_per_shard=10, **options
    )


def reseal(folder: Path) -> None:
    """The manifest of what is in the shards now, with all checksums right."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            data = (folder / shard["file"]).read_bytes()
            shard["bytes"], shard["sha256"] = len(data), parquet.sha256(data)
    manifest.pop("checksum")
    path.write_text(json.dumps({**manifest, "checksum": fingerprint.of_json(manifest)}))


def rewrite_shard(folder: Path, change) -> None:
    """Change the first shard's table, keep its metadata, and seal it."""
    path = folder / "train" / "part-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(change(table), path)
    reseal(folder)


def with_ids(ids: list[int]):
    def change(table: pa.Table) -> pa.Table:
        changed = table.set_column(0, table.schema.field("id"), pa.array(ids, pa.int64()))
        return changed.cast(table.schema)

    return change


def test_negative_ids_are_refused(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache")
    rewrite_shard(folder, with_ids([-1, *range(1, 10)]))
    for read in (
        lambda cache: cache.verify("full"),
        lambda cache: list(cache.stream("train", 4)),
        lambda cache: cache.logits("train", [1]),
    ):
        with pytest.raises(CacheError, match="has the row id -1; ids are 0 or more"):
            read(LogitCache(folder))


@pytest.mark.parametrize("seed", [0, None])
def test_repeated_ids_are_refused(tmp_path: Path, seed: int | None) -> None:
    folder = write_cache(tmp_path / "cache")
    rewrite_shard(folder, with_ids([*range(9), 12]))  # 12 is in the second shard
    for read in (
        lambda cache: cache.verify("full"),
        lambda cache: list(cache.stream("train", 4, seed=seed)),
        lambda cache: cache.logits("train", [1]),
    ):
        with pytest.raises(CacheError, match="has row id 12 twice"):
            read(LogitCache(folder))


def limited(code: str, megabytes: int = 900) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that may not have more memory."""
    begin = f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, ({megabytes} << 20,) * 2)\n"
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, "-c", begin + textwrap.dedent(code)]
    return subprocess.run(script, capture_output=True, text=True, timeout=120, env=environment)


def test_a_row_group_that_promises_little_memory_and_takes_much(tmp_path: Path) -> None:
    """Zeros compress a thousandfold: a shard of a few hundred KB would take 1.6 GB in one row group."""
    count, classes, folder = 20_000, 20_000, tmp_path / "cache"
    with LogitWriter(
        folder, classes=classes, label_names=[], fingerprints=FINGERPRINTS, rows_per_shard=count
    ) as written:
        written.write("train", [0], [1], np.zeros((1, classes), np.float32))
        written.finish()
    path, split = folder / "train" / "part-00000.parquet", {"rows": count}
    schema = pq.read_schema(path)
    piece = pa.FixedSizeListArray.from_arrays(
        np.zeros(1000 * classes, np.float32), type=schema.field("logits").type
    )
    arrays = [np.arange(count), np.zeros(count, np.uint64), pa.chunked_array([piece] * (count // 1000))]
    pq.write_table(pa.table(arrays, schema=schema), path, row_group_size=count, compression="zstd")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["rows"] = manifest["splits"]["train"]["shards"][0]["rows"] = split["rows"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    reseal(folder)
    assert path.stat().st_size < 2 << 20
    with pytest.raises(CacheError, match=r"row group 0 takes .* bytes of memory, too many for a file of"):
        next(iter(LogitCache(folder).stream("train", 4)))


def test_a_huge_manifest_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache")
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(500 << 20)
    found = limited(f"""
        from kdcache.errors import CacheError
        from kdcache.logits import LogitCache
        try:
            LogitCache({str(folder)!r})
        except CacheError as error:
            print(error)
    """)
    assert "has 524,288,000 bytes, expected at most 16,777,216" in found.stdout, found.stderr


@pytest.mark.parametrize("name", ["manifest.json", "train/part-00001.parquet"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_not_read(tmp_path: Path, name: str, kind: str) -> None:
    folder = write_cache(tmp_path / "cache")
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    with pytest.raises(CacheError, match="is no regular file"):
        LogitCache(folder)
    if name != "manifest.json":
        (folder / "manifest.json").unlink()
    for resume in (True, False):
        with pytest.raises(CacheError, match="is no regular file"), writer(folder, resume=resume):
            pass


def test_many_mistakes_make_a_short_message(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"] = [{"file": "x" * 1000, "rows": 0}] * 1000
    manifest.pop("checksum")
    (folder / "manifest.json").write_text(json.dumps({**manifest, "checksum": fingerprint.of_json(manifest)}))
    with pytest.raises(CacheError, match=r"and [\d,]+ more") as caught:
        LogitCache(folder)
    assert len(str(caught.value)) < 2000


# ---- folders that go away ----


@pytest.mark.parametrize("more", [True, False])
def test_a_folder_that_is_deleted_meanwhile(tmp_path: Path, more: bool) -> None:
    def write() -> None:
        with writer(tmp_path / "cache") as w:
            w.write("train", *rows(10))
            shutil.rmtree(tmp_path / "cache")
            if more:
                w.write("train", *(values[10:] for values in rows(20)))
            w.finish()

    with pytest.raises(CacheError, match="was deleted or replaced while the cache was written"):
        write()
    assert not (tmp_path / "cache").exists()


def test_a_shard_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    def write() -> None:
        with writer(tmp_path) as w:
            w.write("train", *rows(20))
            (tmp_path / "train" / "part-00000.parquet").unlink()
            w.finish()

    with pytest.raises(CacheError, match=r"part-00000\.parquet: was removed or changed while"):
        write()
    assert not (tmp_path / "manifest.json").exists()


# ---- what a loop of one's own gives the writer ----


def test_tensors_of_all_kinds(tmp_path: Path) -> None:
    ids, hashes, logits = rows(4)
    given = {
        "float32": torch.from_numpy(logits),
        "with a gradient": torch.from_numpy(logits).requires_grad_(),
        "float16": torch.from_numpy(logits).half(),
        "bfloat16": torch.from_numpy(logits).bfloat16(),
        "bfloat16 with a gradient": torch.from_numpy(logits).bfloat16().requires_grad_(),
    }
    for name, values in given.items():
        with writer(tmp_path / name) as w:
            w.write("train", torch.from_numpy(ids), torch.from_numpy(hashes), values)
            w.finish()
        found = LogitCache(tmp_path / name).logits("train", ids)
        np.testing.assert_array_equal(found, values.detach().float().numpy())


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_cache(Path("~/cache"))
    assert LogitCache("~/cache").path == tmp_path / "cache"
    assert not (tmp_path / "~").exists()
    with pytest.raises(CacheError, match="no such folder"):
        LogitCache("~/other")
