"""Numbers and keys of the report's tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from kdcache.report import wording
from kdcache.results.reading import flags


def where_text(task: object, student: object) -> str:
    return f"{task}: {student}"


def with_rows(table: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples, `negligible` a Python boolean in each."""
    yield from table.assign(negligible=flags(table, "negligible")).itertuples(index=False)


def p_value_4(value: float | None) -> str:
    """Counts over counts: shown in full."""
    return wording.number(value, 4)


def score(value: float | None) -> str:
    return wording.number(value, 1)


def two(value: float | None) -> str:
    return wording.number(value, 2)


def whole(value: float | None) -> str:
    return wording.number(value, 0)


def cell_key(value: float | None) -> str:
    return "" if value is None or wording.missing(value) else f"{value:.6g}"
