"""Write the metrics files: rows become tables, tables become bytes.

Equal results give equal bytes, and a reader never sees half a file. Rounding noise is removed here: all tables are made
by `tabulate`, which knows from the schema the scale of the numbers that each column was computed from.
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
# A number below NOISE times the scale of its inputs is rounding noise. float64 rounds at 1e-16 of the scale, a long sum
# at a few hundred times that. The smallest difference of an accuracy, one row in a billion, is 100 times NOISE.
NOISE = 1e-11
Row = TypeVar("Row")


def tabulate(table: type[Row], rows: Iterable[Row]) -> pd.DataFrame:
    """A table of metrics/ from its rows, with rounding noise set to 0; see `without_noise`.

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
    """The table with 0 for each number that is mere rounding noise relative to the numbers it was computed from.

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
    """0 if a number is rounding noise relative to its scale, else the number."""
    return 0.0 if abs(value) <= NOISE * scale else value


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write CSV with 6 significant digits, blanks for numbers that could not be estimated, and true/false.

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
    """Write JSON in the given order, floats with 6 significant digits; NaN is an error."""
    write_json(path, _rounded(content))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return significant(value) if isinstance(value, float) else value


def as_written(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain JSON values, rounded as in the files, with None for numbers that could not be estimated."""
    rows = frame.astype(object).to_dict("records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return significant(value) if math.isfinite(value) else None
    return value


def significant(value: float) -> float:
    """A number rounded to 6 significant digits, as it is written."""
    return float(f"{value:.{DIGITS}g}")
