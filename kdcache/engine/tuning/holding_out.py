"""Hold rows out of train: make a new task from only the train rows of a prepared task.

Tuning uses this task. The held-out rows are its validation split. The prepared task's own validation and further
evaluated splits are never opened. Rows without labels are taken over.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import KdcacheError, TaskError
from kdcache.study import UNLABELLED
from kdcache.system import files
from kdcache.tasks.card import CARD, TaskCard, rows_fingerprint
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.rows import BATCH
from kdcache.tasks.subsets import stratified, taken

Indices = npt.NDArray[np.int64]
TRAIN, VALIDATION = "train", "validation"
HELD_OUT = 1  # names a stream of random numbers of its own


def hold_out(task: PreparedTask, folder: Path, fraction: float, seed: int) -> TaskCard:
    """Write a task with `fraction` of the train rows as validation, and the others as train.

    The held-out rows are drawn stratified by class (for a regression, at random), and without regard to label noise.
    All rows keep their hashes and their order, and get new ids 0..n-1. If the folder has this task already, nothing is
    written.

    Args:
        fraction: the held-out part of train, above 0 and below 1.
        seed: decides which rows are held out. It gives the same rows on every machine.

    Raises:
        TaskError: there are too few train rows, or the task's files are damaged.
    """
    train = task.rows(TRAIN, ["row_hash", *(["label"] if task.card.classes else [])])
    labels = train["label"].to_numpy() if task.card.classes else np.zeros(train.num_rows)
    held = held_out_rows(labels, fraction, _stream(task.card, seed), task.card.regression)
    rest = np.setdiff1d(np.arange(train.num_rows), held)
    if not len(held) or not len(rest):
        raise TaskError(
            f"{task.folder}: hold_out {fraction:g} of {train.num_rows} train rows leaves {len(rest)} to learn from and "
            f"{len(held)} to choose by; both need some"
        )
    rows = {TRAIN: rest, VALIDATION: held}
    card = _card(task.card, train, rows, {"held_out": fraction, "seed": seed, "of": task.card.fingerprint})
    if not _is_there(folder, card):
        _write(task, folder, rows, card)
    return card


def _stream(card: TaskCard, seed: int) -> int | tuple[int, ...]:
    """The seed of the draw. Label noise has `seed` alone: with the same stream, its rows would be those held out."""
    return seed if card.label_noise is None else (seed, HELD_OUT)


def held_out_rows(
    labels: npt.NDArray[Any], fraction: float, seed: int | tuple[int, ...], regression: bool
) -> Indices:
    """The positions in train of the held-out rows, ascending.

    Args:
        labels: train's labels [N].
    """
    strata = np.zeros(len(labels)) if regression else labels
    return stratified(strata, round(fraction * len(labels)), seed)


def _card(card: TaskCard, train: pa.Table, rows: dict[str, Indices], source: dict[str, Any]) -> TaskCard:
    hashes = {split: train["row_hash"].to_numpy()[at] for split, at in rows.items()}
    labels = {split: train["label"].to_numpy()[at] for split, at in rows.items() if card.classes}
    names, counts = card.label_names, {split: len(at) for split, at in rows.items()}
    if UNLABELLED in card.rows:
        counts[UNLABELLED] = card.rows[UNLABELLED]
    of_class = {
        split: np.bincount(classes, minlength=len(names)).tolist() if names else []
        for split, classes in labels.items()
    }
    changes = {
        "rows": counts,
        "class_counts": of_class,
        "source": source,
        "dropped": {},
        "shared_rows": len(np.intersect1d(*hashes.values())),
        "label_noise": None,  # it is not known here how many wrong labels came to which side
        "fingerprint": rows_fingerprint(card.modality, card.regression, names, hashes, card.kind),
    }
    return card.model_copy(update=changes)


def _is_there(folder: Path, card: TaskCard) -> bool:
    if not all((folder / f"{split}.parquet").is_file() for split in card.rows):
        return False
    try:
        return (folder / CARD).is_file() and files.read_json(folder / CARD) == card.content
    except KdcacheError:
        return False  # a damaged card; the task is written again


def _write(task: PreparedTask, folder: Path, rows: dict[str, Indices], card: TaskCard) -> None:
    """Write the task. As with any prepared task, card.json is removed first and written last."""
    files.remove(folder / CARD)
    source = task.folder / f"{TRAIN}.parquet"
    for split, at in rows.items():
        files.write_atomically(folder / f"{split}.parquet", partial(_write_rows, source, at))
    if UNLABELLED in card.rows:
        copied = task.folder / f"{UNLABELLED}.parquet"
        files.write_atomically(folder / copied.name, partial(shutil.copyfile, copied))
    files.write_json(folder / CARD, card.content)


def _write_rows(source: Path, rows: Indices, path: Path) -> None:
    start = 0
    with (
        pq.ParquetFile(source) as file,
        pq.ParquetWriter(path, file.schema_arrow, compression="zstd") as writer,
    ):
        for table in taken(partial(_batches, file), rows)():
            ids = pa.array(np.arange(start, start + table.num_rows, dtype=np.int64))
            writer.write_table(table.set_column(table.column_names.index("id"), "id", ids))
            start += table.num_rows


def _batches(file: pq.ParquetFile) -> Iterator[pa.Table]:
    for batch in file.iter_batches(BATCH):
        yield pa.Table.from_batches([batch])
