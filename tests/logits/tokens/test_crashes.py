"""Real processes, killed while they write a token cache: what they leave is completed to the same bytes."""

import random
from pathlib import Path

import pytest

from kdcache.errors import CacheError
from kdcache.logits.tokens import Threshold, TokenCache, write_token_logits
from tests.forked import forked
from tests.logits.test_crashes import files_seen, kill_at
from tests.logits.test_writer import contents

from .conftest import FINGERPRINTS, Table, sequences

KILLS = 50
SPLITS = {"train": sequences(120), "validation": sequences(25, seed=1)}


def write(path: Path, batch_size: int = 3) -> None:
    options = {"fingerprints": FINGERPRINTS, "rows_per_shard": 8, "batch_size": batch_size}
    write_token_logits(Table(), SPLITS, path, Threshold(1 / 12, draws=2), **options)


@pytest.fixture(scope="module")
def processes():
    """A context whose processes have imported everything already, so that they are killed while writing."""
    return forked()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("uninterrupted") / "cache"
    write(path)
    return contents(path)


def test_killed_at_random_moments(tmp_path, processes, uninterrupted):
    moments, left_behind = random.Random(20), []
    for attempt in range(KILLS):
        if attempt % 5 == 0:
            path = tmp_path / f"cache-{attempt}"  # each is killed five times, then completed
        files = moments.randint(files_seen(path), len(uninterrupted))
        process = processes.Process(target=write, args=(path, 1 + attempt % 4))
        kill_at(process, path, files, moments.uniform(0, 0.003))
        if (path / "manifest.json").exists():  # it was too late
            assert contents(path) == uninterrupted
        else:
            left_behind.append(files_seen(path))
            with pytest.raises(CacheError):
                TokenCache(path)
        if attempt % 5 == 4:
            write(path, 5)
            assert contents(path) == uninterrupted
            TokenCache(path).verify("full")
    assert len(set(left_behind)) > 3, "the kills are to hit different moments"


def test_a_second_writer_is_refused(tmp_path, processes):
    from kdcache.logits.shards import exclusive

    with exclusive(tmp_path), pytest.raises(CacheError, match="another process is writing this cache"):
        write(tmp_path)
