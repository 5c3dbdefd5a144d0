"""Rows from a `DatasetDict` of the library datasets that `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdcache.errors import KdcacheError, TaskError
from kdcache.study import Task
from kdcache.system import files
from kdcache.tasks.columns import shown_all
from kdcache.tasks.rows import Batches, Columns, Loaded, Rows, columns_of, rows_of_dataset

SPLITS = "dataset_dict.json"  # names the splits, each a folder beside it
STATE = "state.json"  # of one split: its Arrow files


def load_saved(task: Task, saved: str) -> Loaded:
    """The rows of a saved `DatasetDict`; `splits` of the source maps kdcache's names of splits to its own.

    Raises:
        TaskError: the folder holds no DatasetDict, lacks a split or a column, or is damaged.
    """
    folder = Path(saved)
    stored = _split_names(folder)
    splits: dict[str, Rows] = {}
    resolved: dict[str, Any] = {"saved": folder.as_posix(), "fingerprints": {}}
    for split in task.source.split_names:
        chosen = (task.source.splits or {}).get(split, split)
        if chosen not in stored:
            raise TaskError(
                f"{folder}: no split {chosen!r}; there are: {shown_all(stored) or 'none'}; say which one to take with "
                f"`splits: {{{split}: ...}}` beside `saved`"
            )
        data = _open(f"{split}: {folder / chosen}", folder / chosen)
        splits[split] = _rows(f"{split}: {folder / chosen}", data, columns_of(task, split))
        resolved["fingerprints"][split] = data._fingerprint
    return Loaded(splits, resolved)


def _split_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        problem = "is no folder" if folder.exists() else "the folder does not exist"
        raise TaskError(
            f"{folder}: {problem}; expected what `DatasetDict.save_to_disk` wrote, on this machine (paths count from "
            "the working directory)"
        )
    if not (folder / SPLITS).is_file():
        is_dataset = (folder / STATE).is_file()
        found = "one Dataset without splits" if is_dataset else f"no {SPLITS}"
        raise TaskError(
            f"{folder}: holds {found}; expected a DatasetDict: "
            'DatasetDict({"train": ..., "validation": ...}).save_to_disk(...)'
        )
    try:
        content = files.read_json(folder / SPLITS)
    except KdcacheError:
        raise TaskError(f"{folder / SPLITS}: is damaged; save the DatasetDict again") from None
    names = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TaskError(f"{folder / SPLITS}: has no list of splits; save the DatasetDict again")
    return names


def _open(origin: str, folder: Path) -> Any:
    import datasets

    with _reading(origin):
        files.refuse_pipes(folder)
        return datasets.Dataset.load_from_disk(str(folder), keep_in_memory=False)


def _rows(origin: str, data: Any, columns: Columns) -> Rows:
    with _reading(origin):
        rows = rows_of_dataset(origin, data, columns)
        rows.label.validate(full=True)
    return replace(rows, batches=partial(_checked, origin, rows.batches))


def _checked(origin: str, batches: Batches) -> Iterator[pa.Table]:
    """Check the Arrow files, which are mapped into memory: Arrow believes them about where a text ends."""
    with _reading(origin):
        for table in batches():
            table.validate(full=True)
            yield table


@contextmanager
def _reading(origin: str) -> Iterator[None]:
    try:
        yield
    except TaskError:
        raise
    except Exception as error:  # the library raises almost anything on damaged files
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TaskError(
            f"{origin}: cannot be read as a saved Dataset: {reason}; save it again with save_to_disk"
        ) from None
