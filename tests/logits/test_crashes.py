"""Real processes, killed while they write: what they leave is completed to the bytes of an uninterrupted run."""

import os
import random
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from kdcache.errors import CacheError
from kdcache.logits import LogitCache, LogitWriter
from tests.forked import forked

from .conftest import FINGERPRINTS, rows
from .test_writer import contents

SPLITS = {"train": 200, "validation": 45}
KILLS = 50


def write(path: Path, seed: int = 0) -> None:
    """What an interrupted run does when it is started again; the batches differ from run to run."""
    batches = random.Random(seed)
    options = {"classes": 3, "label_names": [], "fingerprints": FINGERPRINTS, "rows_per_shard": 10}
    with LogitWriter(path, **options, resume=True) as writer:
        for split, count in SPLITS.items():
            ids, hashes, logits = rows(count)
            start = writer.written(split)
            while start < count:
                part = slice(start, start + batches.randint(1, 25))
                writer.write(split, ids[part], hashes[part], logits[part])
                start = part.stop
        writer.finish()


@pytest.fixture(scope="module")
def processes():
    """A context whose processes have imported everything already, so that they are killed while writing."""
    return forked()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("uninterrupted") / "cache"
    write(path)
    return contents(path)


def files_seen(path: Path) -> int:
    """Shards and temporary files there have been, as far as one can see from outside.

    A writer that resumes removes and makes folders meanwhile: os.walk passes over one that is gone.
    """
    return sum("part-" in name for _, _, names in os.walk(path) for name in names)


def kill_at(process, path: Path, files: int, pause: float) -> None:
    """Let the process write until `files` files are there, and a moment longer."""
    process.start()
    while process.is_alive() and files_seen(path) < files:
        time.sleep(0.0005)
    time.sleep(pause)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)


def test_killed_at_random_moments(tmp_path, processes, uninterrupted):
    moments, left_behind = random.Random(20), []
    for attempt in range(KILLS):
        if attempt % 5 == 0:
            path = tmp_path / f"cache-{attempt}"  # each is killed five times, then completed
        files = moments.randint(files_seen(path), len(uninterrupted))
        process = processes.Process(target=write, args=(path, attempt))
        kill_at(process, path, files, moments.uniform(0, 0.003))
        if (path / "manifest.json").exists():  # it was too late
            assert contents(path) == uninterrupted
        else:
            left_behind.append(files_seen(path))
            with pytest.raises(CacheError):
                LogitCache(path)
        if attempt % 5 == 4:
            write(path, attempt)
            assert contents(path) == uninterrupted
            LogitCache(path).verify("full")
    assert len(set(left_behind)) > 5, "the kills are to hit different moments"


def test_a_second_writer_is_refused_until_the_first_ends(tmp_path, processes, uninterrupted):
    path, entered, leave = tmp_path / "cache", processes.Event(), processes.Event()
    first = processes.Process(target=hold, args=(path, entered, leave))
    first.start()
    assert entered.wait(30)
    with pytest.raises(CacheError, match="another process is writing this cache"):
        write(path)
    assert (
        LogitWriter(path, classes=1, label_names=[], fingerprints=FINGERPRINTS).path == path
    )  # nothing taken yet
    first.kill()  # its lock ends with it
    first.join()
    write(path)
    assert contents(path) == uninterrupted


def hold(path, entered, leave):
    with LogitWriter(path, classes=1, label_names=[], fingerprints=FINGERPRINTS):
        entered.set()
        leave.wait()


def test_a_file_size_limit_is_one_clear_error(tmp_path, processes, uninterrupted):
    """RLIMIT_FSIZE stands for a full disk: the write fails half-way, in the kernel."""
    path, answer = tmp_path / "cache", processes.Queue()
    process = processes.Process(target=write_limited, args=(path, answer))
    process.start()
    message = answer.get(timeout=30)
    process.join()
    assert "part-00000.parquet: cannot be written" in message
    assert "the logit cache is incomplete" in message
    assert contents(path) == {}
    write(path)
    assert contents(path) == uninterrupted


def write_limited(path, answer):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
    answer.put(error_of(path))


def error_of(path: Path) -> str:
    try:
        write(path)
    except CacheError as error:
        return str(error)
    return "no error"


def test_a_read_only_folder_is_one_clear_error(tmp_path, processes):
    tmp_path.chmod(0o555)
    answer = processes.Queue()
    process = processes.Process(target=write_as_nobody, args=(tmp_path / "cache", answer))
    process.start()
    message = answer.get(timeout=30)
    process.join()
    tmp_path.chmod(0o755)
    assert "cache: cannot be written: Permission denied" in message


def write_as_nobody(path, answer):
    if os.geteuid() == 0:
        os.setuid(65534)  # root may write anywhere
    answer.put(error_of(path))


def interrupted(path: Path) -> None:
    """Leave a cache that lacks its manifest and its last rows."""
    options = {"classes": 3, "label_names": [], "fingerprints": FINGERPRINTS, "rows_per_shard": 10}
    with suppress(KeyboardInterrupt), LogitWriter(path, **options, resume=True) as writer:
        writer.write("train", *[part[:95] for part in rows(200)])
        raise KeyboardInterrupt


def shards_written(path: Path) -> list[str]:
    return sorted(file.name for file in path.glob("train/*"))


def test_resume_keeps_whole_shards_only(tmp_path):
    interrupted(tmp_path)
    assert shards_written(tmp_path) == [f"part-0000{k}.parquet" for k in range(9)]
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("train/*")}
    write(tmp_path)
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped", "another's", "link"])
def test_resume_after_damage_between_the_runs(tmp_path, uninterrupted, damage):
    path = tmp_path / "cache"
    interrupted(path)
    shard, other = path / "train" / "part-00004.parquet", path / "train" / "part-00005.parquet"
    data = bytearray(shard.read_bytes())
    if damage == "truncated":
        shard.write_bytes(data[:-1])
    elif damage == "flipped":
        data[40] ^= 1
        shard.write_bytes(data)
    elif damage == "another's":
        shard.write_bytes(other.read_bytes())
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(b"not to be written to")
        shard.unlink()
        shard.symlink_to(tmp_path / "elsewhere")
    else:
        shard.unlink()
    write(path)
    assert contents(path) == uninterrupted
    if damage == "link":
        assert (tmp_path / "elsewhere").read_bytes() == b"not to be written to"
        assert not shard.is_symlink()


@pytest.mark.parametrize(
    "options",
    [
        {"fingerprints": FINGERPRINTS.model_copy(update={"weights": "another teacher"})},
        {"rows_per_shard": 20},
        {"dtype": "float16"},
        {"classes": 4},
    ],
)
def test_resume_takes_nothing_from_another_cache(tmp_path, options):
    interrupted(tmp_path)
    same = {"classes": 3, "label_names": [], "fingerprints": FINGERPRINTS, "rows_per_shard": 10}
    with LogitWriter(tmp_path, **{**same, **options}, resume=True) as writer:
        assert writer.written("train") == 0
        assert shards_written(tmp_path) == []
        writer.write("train", *rows(3, classes=options.get("classes", 3)))
        writer.finish()


def test_resumed_ids_are_still_unique(tmp_path):
    interrupted(tmp_path)
    options = {"classes": 3, "label_names": [], "fingerprints": FINGERPRINTS, "rows_per_shard": 10}
    with LogitWriter(tmp_path, **options, resume=True) as writer:
        assert writer.written("train") == 90
        with pytest.raises(CacheError, match="id 89 was written twice"):
            writer.write("train", np.array([89]), *[part[:1] for part in rows(1)[1:]])
        writer.write("train", *[part[90:] for part in rows(200)])
        writer.finish()
