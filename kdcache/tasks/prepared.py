"""Read a prepared task."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import TaskError
from kdcache.tasks.card import read_card
from kdcache.tasks.columns import listed


def load_split(folder: Path, split: str, columns: list[str] | None = None) -> pa.Table:
    """One split of a prepared task, in id order.

    Args:
        columns: only these; default all of them.

    Raises:
        TaskError: the task is not prepared, there is no such split or column, or its file is damaged.
    """
    card = read_card(folder)
    if split not in card.rows:
        raise TaskError(f"{folder}: no split {split!r}; there are: {listed(card.rows)}")
    path = Path(folder) / f"{split}.parquet"
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
