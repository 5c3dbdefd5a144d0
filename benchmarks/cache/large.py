"""Caches larger than one would keep in memory, written and streamed in processes whose peak memory is stated.

Row `id` has the logits of row `id % n` of a small random block, so that the reader can check every value it gets.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cache.measuring import Logits, Measurement, Options, in_child, peak_memory, stated
from kdcache.logits import Fingerprints, LogitCache, LogitWriter

CASES = ((20_000_000, 3), (1_000_000, 1000))
QUICK = ((70_000, 3),)  # more than one shard
BATCH = 1024
CHUNK = 4096  # rows written at a time
MIB = 2**20


def measure(options: Options) -> Measurement:
    """Write, then stream, each in its own process."""
    goals, facts = [], {}
    for rows, classes in QUICK if options.quick else CASES:
        folder = options.work / f"large-{classes}"
        name = f"{rows:,} rows x {classes:,}"
        try:
            numbers_of = {
                "writing": in_child(write, folder, rows, classes),
                "streaming": in_child(stream, folder, rows, classes),
            }
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        facts[name] = numbers_of | {"bytes": size, "bytes_in_memory": rows * (16 + 4 * classes)}
        for action, numbers in numbers_of.items():
            goals.append(stated(f"{action} {name}: peak memory of the process", [numbers["peak_mib"]], "MiB"))
            goals.append(stated(f"{action} {name}", [numbers["rows_per_second"]], "rows/s"))
    notes = ["Every value was compared with the one that was written. Streaming compares checksums as well."]
    return Measurement(goals, facts=facts, notes=notes)


def write(folder: Path, rows: int, classes: int) -> dict[str, Any]:
    """Write the cache chunk by chunk; rows/s and this process's peak."""
    base, values = peak_memory(), block(classes)
    prints = Fingerprints(data="benchmark", weights="benchmark", preprocessing="benchmark", code="benchmark")
    start = time.perf_counter()
    with LogitWriter(folder, classes=classes, label_names=[], fingerprints=prints) as writer:
        for first in range(0, rows, CHUNK):
            ids = np.arange(first, min(first + CHUNK, rows))
            writer.write("train", ids, hashes(ids), values[ids % len(values)])
        writer.finish()
    return _numbers(rows, time.perf_counter() - start, base)


def stream(folder: Path, rows: int, classes: int) -> dict[str, Any]:
    """One shuffled epoch, every row checked.

    Raises:
        AssertionError: a row is missing, comes twice, or has other logits.
    """
    base, values = peak_memory(), block(classes)
    seen = np.zeros(rows, dtype=bool)
    start = time.perf_counter()
    for batch in LogitCache(folder).stream("train", BATCH):
        assert not seen[batch.ids].any()
        seen[batch.ids] = True
        assert np.array_equal(batch.row_hashes, hashes(batch.ids))
        assert np.array_equal(batch.logits, values[batch.ids % len(values)])
    assert seen.all()
    return _numbers(rows, time.perf_counter() - start, base)


def block(classes: int) -> Logits:
    """A prime number of rows, some MiB: they repeat too far apart for compression to notice."""
    rows = 65521 if classes < 100 else 4093
    return np.random.default_rng(classes).standard_normal((rows, classes), dtype=np.float32)


def hashes(ids: np.ndarray) -> np.ndarray:
    """uint64 [n] that look random (Knuth's multiplier for 64 bits)."""
    return np.asarray(ids.astype(np.uint64) * np.uint64(6364136223846793005))


def _numbers(rows: int, seconds: float, base: int) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "peak_mib": peak_memory() / MIB,
        "before_mib": base / MIB,  # Python and its libraries
    }
