"""Joining by content: a cache's logits are added to the rows of a data set without hashes.

It is the first thing that a user does with a cache of their own data. `join` computes the rows' hashes a whole column
at a time. It is compared with `hash_row`, row by row.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from benchmarks.cache.measuring import Measurement, Options, at_least, peaky_logits, rates, ratios, stated
from kdcache.hashing.rows import hash_row, hash_rows
from kdcache.logits import Fingerprints, LogitCache, LogitWriter

TIMES = 10  # times the rows of the narrow cache
SHARE = 10  # row by row, 1 / SHARE of the rows are joined, to a cache of these alone: opening takes its share, too
CLASSES, WORDS = 3, 12
CONTENT, SHUFFLED, ONE_BY_ONE, GIVEN = (
    "by content",
    "by content, shuffled",
    "by content, row by row",
    "by hash",
)


def measure(options: Options) -> Measurement:
    """Join a data set as it is stored, and shuffled; row by row; and with existing hashes."""
    rows = TIMES * options.rows
    data = make_data(rows)
    hashed = data.add_column("row_hash", hash_rows(data, ["text"], "label"))
    path = write(options.work / "joining", hashed)
    few = range(max(rows // SHARE, 1))
    shuffled, part = data.shuffle(seed=0), data.select(few)
    path_of_part = write(options.work / "joining-part", hashed.select(few))
    check_equal(path, data.shuffle(seed=1).select(range(100)))
    variants = {
        CONTENT: lambda: len(LogitCache(path).join(data, columns=["text"], label="label")),
        SHUFFLED: lambda: len(LogitCache(path).join(shuffled, columns=["text"], label="label")),
        ONE_BY_ONE: lambda: len(join_one_by_one(path_of_part, part)),
        GIVEN: lambda: len(LogitCache(path).join(hashed)),
    }
    timed = rates(variants, options.repeats)
    seconds = [rows / rate for rate in timed[CONTENT]]
    goals = [
        at_least("join by content, against row by row", 10, ratios(timed, CONTENT, ONE_BY_ONE), unit="x"),
        stated("join by content, shuffled, against row by row", ratios(timed, SHUFFLED, ONE_BY_ONE), "x"),
        stated(f"join by content, {rows:,} rows", seconds, "s"),
    ]
    return Measurement(goals, {"join, rows/s": timed}, notes=_notes(rows))


def make_data(rows: int) -> Dataset:
    """Texts of a dozen words, no two alike, and labels."""
    rng = np.random.default_rng(0)
    words = np.array(
        [f"{first}{last}" for first in ("ba", "che", "dori", "e") for last in ("lo", "mian", "", "s")]
    )
    chosen = words[rng.integers(0, len(words), (rows, WORDS))]
    texts = [f"{' '.join(line)} {number}" for number, line in enumerate(chosen)]
    return Dataset.from_dict({"text": texts, "label": rng.integers(0, CLASSES, rows)})


def write(path: Path, hashed: Dataset) -> Path:
    """A cache with the rows' hashes and some logits."""
    fingerprints = Fingerprints(data="data", weights="weights", preprocessing="none", code="none")
    with LogitWriter(path, classes=CLASSES, label_names=(), fingerprints=fingerprints) as writer:
        hashes = hashed.data.column("row_hash").to_numpy()
        writer.write("train", np.arange(len(hashed)), hashes, peaky_logits(len(hashed), CLASSES))
        writer.finish()
    return path


def join_one_by_one(path: Path, data: Dataset) -> Any:
    """The result of `join`, computed with one `hash_row` a row."""
    hashes = np.array(hashes_one_by_one(data), np.uint64)
    return LogitCache(path).join(data.add_column("row_hash", hashes))


def hashes_one_by_one(data: Iterable[Any]) -> list[int]:
    return [hash_row(row, ["text"], "label") for row in data]


def check_equal(path: Path, data: Dataset) -> None:
    """Check that both ways give the same logits."""
    joined = LogitCache(path).join(data, columns=["text"], label="label")
    assert joined["teacher_logits"] == join_one_by_one(path, data)["teacher_logits"]


def _notes(rows: int) -> list[str]:
    return [
        f"{rows:,} rows in a `datasets.Dataset`, texts of {WORDS} short words and a label, K = {CLASSES}; row by row, "
        f"which is by `hash_row`, {rows // SHARE:,} of them. Each opens the cache of its rows, which compares "
        "checksums and reads the split into memory.",
    ]
