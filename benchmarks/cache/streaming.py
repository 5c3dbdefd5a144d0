"""Streaming a wide cache in bounded memory, against pyarrow reading the same files raw."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.cache.measuring import Measurement, Options, at_least, peaky_logits, rates, ratios, stated
from benchmarks.cache.stores import WIDE, write_cache
from kdcache.logits import CachedSplit, LogitCache, LogitStream

BATCH = 256
ROWS_PER_SHARD = 8192  # as `write_logits` writes them
RAW, RAW_GROUPS = "pyarrow.parquet.read_table", "pyarrow, row group by row group"
FIRST, LATER, ORDERED = (
    "stream, first epoch (compares checksums)",
    "stream, later epochs",
    "stream, later epochs, order of writing",
)


def measure(options: Options) -> Measurement:
    """Time an epoch of each variant."""
    folder = options.work / "streaming"
    cache = write_cache(folder, peaky_logits(options.wide_rows, WIDE), ROWS_PER_SHARD)
    shuffled, ordered = cache.stream("train", BATCH), cache.stream("train", BATCH, seed=None)
    files = sorted((folder / "train").glob("*.parquet"))
    variants = {
        RAW: lambda: sum(pq.read_table(file).num_rows for file in files),
        RAW_GROUPS: lambda: sum(map(_by_group, files)),
        FIRST: lambda: epoch(LogitCache(folder).stream("train", BATCH)),
        LATER: lambda: epoch(shuffled),
        ORDERED: lambda: epoch(ordered),
    }
    timed = rates(variants, options.repeats)
    title = f"streaming rows/s, K = {WIDE}, against pyarrow reading the same files raw"
    goals = [
        at_least(f"{title}, first epoch", 0.5, ratios(timed, FIRST, RAW), variants[FIRST], "x"),
        at_least(f"{title}, later epochs", 0.5, ratios(timed, LATER, RAW), variants[LATER], "x"),
        stated(f"{title} one row group after the other, later epochs", ratios(timed, LATER, RAW_GROUPS), "x"),
    ]
    return Measurement(goals, {f"streaming, K = {WIDE}, rows/s": timed}, notes=_notes(options))


def epoch(stream: LogitStream[CachedSplit]) -> int:
    return sum(len(batch.ids) for batch in stream)


def _by_group(file: Path) -> int:
    with pq.ParquetFile(file) as parquet:
        return sum(
            parquet.read_row_group(k, use_threads=False).num_rows for k in range(parquet.num_row_groups)
        )


def _notes(options: Options) -> list[str]:
    return [
        f"{options.wide_rows:,} rows x {WIDE} in shards of {ROWS_PER_SHARD:,}, batches of {BATCH}, shuffled unless it "
        "says otherwise; files in the page cache.",
        "Raw reading gives whole tables in the order of writing: no batches, no shuffling, no checks.",
    ]
