"""Bytes per row, and random batches by id: the cache beside other ways to keep a teacher's logits.

torchdistill's published release no longer has a cache, so its layout is imitated: one torch-saved dictionary for each
sample, DIR/<last 4 digits>/<index>.pt. TextBrewer's way (a list of whole batches with their logits) is imitated too.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cache.measuring import (
    Goal,
    Logits,
    Measurement,
    Options,
    Rates,
    at_least,
    at_most,
    peaky_logits,
    rates,
    ratios,
    row_hashes,
)
from kdcache.logits import Fingerprints, LogitCache, LogitWriter

Ids = npt.NDArray[np.int64]
Gather = Callable[[Ids], Any]

BATCH = 256
NARROW, WIDE = 3, 1000
TOKENS = 32  # of a row, which TextBrewer's way keeps beside its logits

CACHE, CHECKED, SELECT = "kdcache", "kdcache, row hashes checked too", "torch.index_select, resident"
FILES, ARROW, MEMMAP = "a file per sample (torchdistill's layout)", "Hugging Face data set", "NumPy memmap"
IN_MEMORY = "batches in memory (TextBrewer's way)"


@dataclass(frozen=True)
class Store:
    """The logits of rows 0 .. rows - 1, kept in one way."""

    gather: Gather
    rows: int
    batches: int  # for one round of timing
    bytes: int | None = None  # of the files
    disk: int | None = None  # disk space of the files and their folders


def measure(options: Options) -> Measurement:
    """Measure both widths. Every store must give the same values."""
    goals: list[Goal] = []
    timings: dict[str, Rates] = {}
    facts: dict[str, Any] = {}
    for classes, rows in ((NARROW, options.rows), (WIDE, options.wide_rows)):
        logits = peaky_logits(rows, classes)
        stores = make_stores(options, logits)
        facts[f"K = {classes}, equal values in"] = check_equal(stores, logits)
        facts |= _sizes(classes, stores)
        goals += [_size_goal(stores)] if classes == NARROW else []
        timed = rates({name: partial(_batches, store) for name, store in stores.items()}, options.repeats)
        timings[f"random batches of {BATCH} by id, K = {classes}, rows/s"] = timed
        goals += _gather_goals(classes, timed, stores)
    goals.append(_in_memory_goal())
    facts |= _in_memory(options)
    return Measurement(goals, timings, facts, _notes(options))


def make_stores(options: Options, logits: Logits) -> dict[str, Store]:
    """The same logits [N, K], kept in every way; one file per sample has only the first rows."""
    import torch

    folder, rows = options.work / f"stores-{logits.shape[1]}", len(logits)
    few, some, many = (2, 2, 2) if options.quick else (8, 50, 1000)
    cache, hashes = write_cache(folder / "cache", logits), row_hashes(rows)
    files = options.file_rows
    write_files(folder / "files", logits[:files])
    resident = torch.from_numpy(logits.copy())
    return {
        CACHE: Store(lambda ids: cache.logits("train", ids), rows, many, *size(folder / "cache")),
        CHECKED: Store(lambda ids: cache.logits("train", ids, hashes[ids]), rows, many),
        SELECT: Store(lambda ids: torch.index_select(resident, 0, torch.from_numpy(ids)), rows, many),
        FILES: Store(partial(read_files, folder / "files"), files, few, *size(folder / "files")),
        ARROW: Store(write_arrow(folder / "arrow", logits), rows, some, *size(folder / "arrow")),
        MEMMAP: Store(write_memmap(folder / "memmap", logits), rows, many, *size(folder / "memmap")),
    }


def write_cache(folder: Path, logits: Logits, rows_per_shard: int = 65536) -> LogitCache:
    """A cache with the split "train"; the rows' ids are their positions."""
    prints = Fingerprints(data="benchmark", weights="benchmark", preprocessing="benchmark", code="benchmark")
    classes = logits.shape[1]
    with LogitWriter(
        folder, classes=classes, label_names=[], fingerprints=prints, rows_per_shard=rows_per_shard
    ) as writer:
        writer.write("train", np.arange(len(logits)), row_hashes(len(logits)), logits)
        writer.finish()
    return LogitCache(folder)


def sample_file(folder: Path, index: int) -> Path:
    """The path of a sample in torchdistill's layout."""
    digits = f"{index:04d}"
    return folder / digits[-4:] / f"{digits}.pt"


def write_files(folder: Path, logits: Logits) -> None:
    """Write one file per sample in torchdistill's layout."""
    import torch

    for index, row in enumerate(logits):
        path = sample_file(folder, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"teacher_outputs": torch.tensor(row), "extracted_outputs": {}}, path)


def read_files(folder: Path, ids: Ids) -> Any:
    """float32 [n, K], a tensor. (torchdistill itself unpickles anything, weights_only=False.)"""
    import torch

    paths = [sample_file(folder, index) for index in ids.tolist()]
    return torch.stack([torch.load(path, weights_only=True)["teacher_outputs"] for path in paths])


def write_arrow(folder: Path, logits: Logits) -> Gather:
    """A data set saved and loaded again, so that it is mapped into memory."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"logits": datasets.List(datasets.Value("float32"), length=logits.shape[1])})
    datasets.Dataset.from_dict({"logits": logits}, features=features).save_to_disk(folder)
    loaded = datasets.load_from_disk(folder).with_format("numpy")
    return lambda ids: loaded[ids.tolist()]["logits"]


def write_memmap(folder: Path, logits: Logits) -> Gather:
    """One array in a file, read by position: no ids, no hashes, no checks."""
    folder.mkdir(parents=True)
    np.save(folder / "logits.npy", logits)
    mapped = np.load(folder / "logits.npy", mmap_mode="r")
    return lambda ids: mapped.take(ids, axis=0)


def size(folder: Path) -> tuple[int, int]:
    """(bytes in the files, bytes of disk that they and their folders take)."""
    everything = [path.stat() for path in folder.rglob("*")]
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(files), sum(512 * entry.st_blocks for entry in everything)


def check_equal(stores: dict[str, Store], logits: Logits, seed: int = 5) -> list[str]:
    """The stores' names, after each has given exactly the values of random rows.

    Raises:
        AssertionError: a store gives other values, so timing it would be pointless.
    """
    for name, store in stores.items():
        ids = np.random.default_rng(seed).integers(0, store.rows, BATCH)
        gathered = np.asarray(store.gather(ids))
        assert gathered.dtype == np.float32, name
        assert np.array_equal(gathered, logits[ids]), name
    return list(stores)


def _batches(store: Store) -> int:
    ids = np.random.default_rng(7).integers(0, store.rows, (store.batches, BATCH))
    for batch in ids:
        store.gather(batch)
    return int(ids.size)


def _sizes(classes: int, stores: dict[str, Store]) -> dict[str, Any]:
    facts = {}
    for name, store in stores.items():
        if store.bytes is not None and store.disk is not None:
            title = f"K = {classes}, bytes per row, {name}"
            facts[title] = round(store.bytes / store.rows, 2)
            facts[f"{title}, on disk"] = round(store.disk / store.rows, 2)
    return facts


def _size_goal(stores: dict[str, Store]) -> Goal:
    store = stores[CACHE]
    assert store.bytes is not None
    title = "bytes per row, K = 3 float32, id, hash and manifest included"
    return at_most(title, 20, [store.bytes / store.rows])


def _gather_goals(classes: int, timed: Rates, stores: dict[str, Store]) -> list[Goal]:
    title = f"random batches of {BATCH} by id, K = {classes}"
    profile = partial(_batches, stores[CACHE])
    return [
        at_least(f"{title}, against a file per sample", 500, ratios(timed, CACHE, FILES), profile, "x"),
        at_least(f"{title}, against torch.index_select", 0.5, ratios(timed, CACHE, SELECT), profile, "x"),
    ]


def _in_memory_goal() -> Goal:
    return Goal(
        f"random batches of {BATCH} by id, against batches kept in memory (TextBrewer's way)",
        "",
        reason="cannot be compared: it has no ids and never regroups rows, each batch comes back as it was; "
        "nothing is on disk, so each run asks the teacher again",
    )


def _in_memory(options: Options) -> dict[str, Any]:
    """Facts about batches in memory: bytes a row, and the speed of an epoch."""
    import torch

    logits = torch.from_numpy(peaky_logits(min(options.rows, 32 * 256), NARROW))
    kept = [
        {
            "input_ids": torch.zeros(len(part), TOKENS, dtype=torch.long),
            "attention_mask": torch.ones(len(part), TOKENS, dtype=torch.long),
            "logits": part,
        }
        for part in logits.split(32)
    ]

    def epoch() -> int:
        order = random.Random(0).sample(range(len(kept)), len(kept))
        return sum(len(kept[index]["logits"]) for index in order)

    held = sum(tensor.nbytes for batch in kept for tensor in batch.values())
    speeds = rates({IN_MEMORY: epoch}, options.repeats)[IN_MEMORY]
    return {
        f"K = {NARROW}, bytes of memory per row of {TOKENS} tokens, {IN_MEMORY}": held / len(logits),
        f"K = {NARROW}, rows/s of an epoch in another order of batches, {IN_MEMORY}": float(
            np.median(speeds)
        ),
    }


def _notes(options: Options) -> list[str]:
    return [
        f"{options.rows:,} rows x {NARROW} and {options.wide_rows:,} rows x {WIDE}; of the file per sample "
        f"{options.file_rows:,} rows. All files were in the page cache.",
        "The cache's split was in memory, as it is after the first batch; the memmap and the data set are mapped.",
        "Peers that go by position (data set, memmap, index_select) cannot tell whose row it is.",
        "torchdistill's layout is imitated, not its code: one torch.save of {teacher_outputs, extracted_outputs} for "
        "each sample, read with torch.load(weights_only=True). On disk counts its folders, too.",
    ]
