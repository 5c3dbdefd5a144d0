"""Where a task's rows come from: built-in data, files, folders of images, a saved DatasetDict, a hub data set.

`load_source` opens all splits and checks that the columns are there. Labels are read at once, because class
names depend on all of them; texts and images come in batches, so that images never lie decoded in memory.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv

from kdcache.errors import TaskError
from kdcache.study import UNLABELLED, Task
from kdcache.tasks import subsets
from kdcache.tasks.builtin import load_builtin
from kdcache.tasks.rows import Loaded, Rows, columns_of, no_labels, rows_of_table
from kdcache.tasks.source_files import load_files
from kdcache.tasks.source_folder import load_folder
from kdcache.tasks.source_hub import load_hub, load_mirror, mirror_folder
from kdcache.tasks.source_saved import load_saved


def load_source(task: Task) -> Loaded:
    """Open a task's train and validation splits, the further splits that it names, and the rest of train.

    Raises:
        TaskError: a file or column is missing, empty or unreadable, or the hub does not deliver the data set.
    """
    loaded = _load_whole(task)
    return loaded if task.train_size is None else _with_train_size(loaded, task, task.train_size)


def _load_whole(task: Task) -> Loaded:
    source = task.source
    if source.builtin is not None:
        return _load_builtin(task, source.builtin)
    if source.files is not None:
        return load_files(task)
    if source.folder is not None:
        return load_folder(task)
    if source.saved is not None:
        return load_saved(task, source.saved)
    folder = mirror_folder(source)
    return load_hub(task) if folder is None else load_mirror(task, folder)


def _with_train_size(loaded: Loaded, task: Task, size: int) -> Loaded:
    train = loaded.splits["train"]
    rows = subsets.draw(train.label, size, task.sample_seed, task.regression)
    part = _part(train, rows, train.label.take(pa.array(rows)))
    if task.unlabelled == "rest":
        return replace(loaded, splits={**loaded.splits, "train": part, UNLABELLED: _rest(train, rows)})
    dropped = {**loaded.dropped, f"not drawn (train_size: {size})": len(train.label) - size}
    return replace(loaded, splits={**loaded.splits, "train": part}, dropped=dropped)


def _rest(train: Rows, drawn: subsets.Indices) -> Rows:
    """The train rows that `train_size` did not draw, without their labels."""
    others = np.setdiff1d(np.arange(len(train.label)), drawn)
    if len(others) == 0:
        raise TaskError(
            f"unlabelled: rest: train_size: {len(drawn)} draws all rows of train, so no rest is left; "
            "lower train_size, or leave out `unlabelled`"
        )
    return replace(_part(train, others, no_labels(len(others))), names=None)


def _part(train: Rows, rows: subsets.Indices, label: pa.ChunkedArray) -> Rows:
    return replace(train, label=label, batches=subsets.taken(train.batches, rows), drawn=rows)


def _load_builtin(task: Task, name: str) -> Loaded:
    data = load_builtin(name)
    splits = {
        split: rows_of_table(f"{name} {split}", table, columns_of(task, split), data.label_names)
        for split, table in data.tables.items()
    }
    return Loaded(splits, {"builtin": name, "package": data.package}, data.dropped)
