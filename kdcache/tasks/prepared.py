"""Read a prepared task."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import TaskError
from kdcache.tasks.card import CARD, TaskCard, read_card
from kdcache.tasks.columns import listed

OPEN_TASKS = 64  # so many stay open in a process; each is a card of a few kB


class PreparedTask:
    """A prepared task: its folder, its card (read when it is opened), and the rows of its splits.

    Raises:
        TaskError: the task is not prepared, only in part, or its card is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.card: TaskCard = read_card(self.folder)

    def rows(self, split: str, columns: list[str] | None = None) -> pa.Table:
        """One split, in id order.

        Args:
            columns: only these; default all of them.

        Raises:
            TaskError: there is no such split or column, or its file is damaged.
        """
        return _read_split(self.folder, self.card, split, columns)


def open_task(folder: Path) -> PreparedTask:
    """The prepared task in a folder: opened once a process, and anew after it was prepared again.

    Raises:
        TaskError: as `PreparedTask`.
    """
    folder = Path(folder)
    return _open_once(folder, folder.absolute(), _card_version(folder / CARD))


@lru_cache(maxsize=OPEN_TASKS)
def _open_once(folder: Path, absolute: Path, version: tuple[int, int, int] | None) -> PreparedTask:
    return PreparedTask(folder)


def _card_version(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced. `card.json` is written last, by renaming a new file over it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def load_split(folder: Path, split: str, columns: list[str] | None = None) -> pa.Table:
    """One split of a prepared task, in id order.

    Args:
        columns: only these; default all of them.

    Raises:
        TaskError: the task is not prepared, there is no such split or column, or its file is damaged.
    """
    return _read_split(Path(folder), read_card(folder), split, columns)


def _read_split(folder: Path, card: TaskCard, split: str, columns: list[str] | None) -> pa.Table:
    if split not in card.rows:
        raise TaskError(f"{folder}: no split {split!r}; there are: {listed(card.rows)}")
    path = folder / f"{split}.parquet"
    try:
        there = pq.read_schema(path).names
        lacking = [column for column in columns or [] if column not in there]
        if lacking:
            raise TaskError(
                f"{path}: has no column {listed(lacking)}; there are: {listed(there)} (the split `unlabelled` has no "
                "labels; if it should be there, run stage prepare again)"
            )
        table = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise TaskError(f"{path}: cannot be read ({error}); run stage prepare again") from None
    if table.num_rows != card.rows[split]:
        raise TaskError(
            f"{path}: has {table.num_rows} rows, the card says {card.rows[split]}; run prepare again"
        )
    return table
