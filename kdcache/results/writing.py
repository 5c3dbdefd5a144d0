"""The metrics files as bytes: equal results give equal bytes, and a reader never sees half a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdcache.errors import ComparisonError
from kdcache.system.files import write_atomically, write_json

DIGITS = 6
# Scores are at most 100 and have rounding errors of 1e-13 at most: what is smaller than this is no score. A p-value
# can be as small as it likes.
NOISE = 1e-10
P_VALUE = re.compile(r"(^|_)p($|_)|floor")


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """CSV with 6 significant digits and no rounding noise; blanks for what could not be estimated; rows as given.

    Raises:
        ComparisonError: a number is infinite.
    """
    written = frame.copy()
    for name in frame.select_dtypes("float"):
        if np.isinf(frame[name]).any():
            raise ComparisonError(f"{path}: the column {name} has an infinite number; nothing was written")
        written[name] = frame[name] if P_VALUE.search(str(name)) else without_noise(frame[name])
    for name in frame.select_dtypes("bool"):
        written[name] = frame[name].map({True: "true", False: "false"})
    text = written.to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
    write_atomically(path, text.encode("utf-8"))


def without_noise(numbers: pd.Series[float]) -> pd.Series[float]:
    """The numbers, with 0 for what is rounding noise, and for -0.0."""
    return numbers.where(numbers.isna() | (numbers.abs() >= NOISE), 0.0)


def write_summary(content: dict[str, Any], path: Path) -> None:
    """JSON in the order given, floats with 6 significant digits; NaN is an error."""
    write_json(path, _rounded(content))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return significant(value) if isinstance(value, float) else value


def significant(value: float) -> float:
    """A number as it is written, with 6 significant digits."""
    return float(f"{value:.{DIGITS}g}")
