"""The metrics files: rows into tables, tables into bytes.

Equal results give equal bytes, and a reader never sees half a file. Rounding noise stops here: `tabulate` is the one
place where rows become a table, and it knows from the schema what each number was computed from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from kdcache.errors import ComparisonError
from kdcache.results.schema import SCORES, columns, fields_before_scores, scales
from kdcache.system.files import write_atomically, write_json

DIGITS = 6
# Of the scale of what a number was computed from. float64 rounds at 1e-16 of it, a long sum at some hundreds of that.
# The smallest difference that an accuracy can have, one of a billion rows, is a hundred times this.
NOISE = 1e-11
Row = TypeVar("Row")


def tabulate(table: type[Row], rows: Iterable[Row]) -> pd.DataFrame:
    """A table of metrics/ from its rows, with 0 for what is rounding noise; see `without_noise`.

    Args:
        table: a dataclass of `schema`.
    """
    records = [dict(vars(row)) for row in rows]
    names, numbers = columns(table), scales(table)
    scored = [record.pop(SCORES) for record in records if SCORES in record]
    metrics = dict.fromkeys(metric for scores in scored for metric in scores)
    if metrics:
        place = fields_before_scores(table)
        names = [*names[:place], *metrics, *names[place:]]
        records = [record | dict(scores) for record, scores in zip(records, scored, strict=True)]
    frame = pd.DataFrame(records, columns=names)
    return without_noise(frame, numbers | dict.fromkeys(metrics, 1.0))


def without_noise(frame: pd.DataFrame, numbers: Mapping[str, float]) -> pd.DataFrame:
    """The table with 0 in the place of numbers that are rounding noise beside what they were computed from.

    Args:
        numbers: the scale of each column that can have noise.
    """
    settled = {
        name: frame[name].mask(frame[name].abs() <= NOISE * scale, 0.0)
        for name, scale in numbers.items()
        if pd.api.types.is_float_dtype(frame[name])
    }
    return frame.assign(**settled)


def settle(value: float, scale: float) -> float:
    """One number as `without_noise` has it."""
    return 0.0 if abs(value) <= NOISE * scale else value


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """CSV with 6 significant digits, blanks for what could not be estimated, true/false, rows as given.

    Raises:
        ComparisonError: a number is infinite.
    """
    written = frame.copy()
    for name in frame.select_dtypes("float"):
        if np.isinf(frame[name]).any():
            raise ComparisonError(f"{path}: the column {name} has an infinite number; nothing was written")
        written[name] = frame[name] + 0.0  # -0.0 becomes 0
    for name in frame.select_dtypes("bool"):
        written[name] = frame[name].map({True: "true", False: "false"})
    text = written.to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
    write_atomically(path, text.encode("utf-8"))


def write_summary(content: dict[str, Any], path: Path) -> None:
    """JSON in the order given, floats with 6 significant digits; NaN is an error."""
    write_json(path, _rounded(content))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return significant(value) if isinstance(value, float) else value


def as_written(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain JSON values: what could not be estimated is None, numbers are as the files have them."""
    rows = frame.astype(object).to_dict("records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return significant(value) if math.isfinite(value) else None
    return value


def significant(value: float) -> float:
    """A number as it is written, with 6 significant digits."""
    return float(f"{value:.{DIGITS}g}")
