"""Read a prepared task: its card once, its rows when they are asked for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import TaskError
from kdcache.tasks.card import TaskCard, read_card
from kdcache.tasks.columns import listed


class PreparedTask:
    """A prepared task, opened once and passed on.

    Raises:
        TaskError: the task is not prepared, only in part, or its card is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.card: TaskCard = read_card(self.folder)

    def check(self, data: str) -> None:
        """
        Args:
            data: the fingerprint of the expected data.

        Raises:
            TaskError: the task has meanwhile been prepared again, from other data.
        """
        if self.card.fingerprint != data:
            raise TaskError(
                f"{self.folder}: was prepared anew: expected data {data}, found {self.card.fingerprint}; run again"
            )

    def rows(self, split: str, columns: list[str] | None = None) -> pa.Table:
        """One split, in id order.

        Args:
            columns: only these; default all of them.

        Raises:
            TaskError: there is no such split or column, or its file is damaged.
        """
        if split not in self.card.rows:
            raise TaskError(f"{self.folder}: no split {split!r}; there are: {listed(self.card.rows)}")
        path = self.folder / f"{split}.parquet"
        try:
            present = pq.read_schema(path).names
            lacking = [column for column in columns or [] if column not in present]
            if lacking:
                raise TaskError(
                    f"{path}: has no column {listed(lacking)}; there are: {listed(present)} (the split "
                    "`unlabelled` has no labels; if it should be there, run stage prepare again)"
                )
            table = pq.read_table(path, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise TaskError(f"{path}: cannot be read ({error}); run stage prepare again") from None
        if table.num_rows != self.card.rows[split]:
            raise TaskError(
                f"{path}: has {table.num_rows} rows, the card says {self.card.rows[split]}; run prepare again"
            )
        return table
