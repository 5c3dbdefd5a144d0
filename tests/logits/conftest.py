"""A small cache that the tests of this folder write, read and break."""

from pathlib import Path

import numpy as np
import pytest

from kdcache.logits import Cost, Fingerprints, LogitWriter

FINGERPRINTS = Fingerprints(data="d" * 8, weights="w" * 8, preprocessing="p" * 8, code="c" * 8)
COST = Cost(seconds=1.5, rows_per_second=20.0, device="cpu", peak_memory_mb=None, run="test")


def rows(count: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, row_hashes, logits) of `count` rows."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, count, dtype=np.uint64)
    return np.arange(count), hashes, random.standard_normal((count, classes)).astype(np.float32)


def write_cache(path: Path, counts: dict[str, int] | None = None, **options) -> Path:
    """A cache with the splits train (25 rows in shards of 10) and validation (7 rows)."""
    names = ["no", "maybe", "yes"]
    defaults = {"classes": 3, "label_names": names, "fingerprints": FINGERPRINTS, "rows_per_shard": 10}
    with LogitWriter(path, **{**defaults, **options}) as writer:
        for seed, (split, count) in enumerate((counts or {"train": 25, "validation": 7}).items()):
            writer.write(split, *rows(count, seed=seed))
        writer.finish(scores={"train": {"accuracy": 0.5}}, cost=COST)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "cache")
