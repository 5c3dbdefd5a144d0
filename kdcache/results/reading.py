"""Read and check the files of `metrics/`; a report is made from these files alone.

Four files are required. The others were added later: without one the report says less, but does not fail. The columns
are those of `schema.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from kdcache.errors import ComparisonError
from kdcache.results.schema import (
    AcrossRow,
    CalibrationRow,
    ComparisonRow,
    CostRow,
    CurveRow,
    ExampleRow,
    LookRow,
    ReliabilityRow,
    TeacherRow,
    TrialRow,
    TuningRow,
    columns,
    defaults,
    plain_types,
)
from kdcache.system.quoting import quoted

NEEDED: dict[str, type[Any]] = {"trials": TrialRow, "comparisons": ComparisonRow, "cost": CostRow}
OPTIONAL: dict[str, type[Any]] = {
    "looks": LookRow,
    "examples": ExampleRow,
    "calibration": CalibrationRow,
    "curves": CurveRow,
    "reliability": ReliabilityRow,
    "across": AcrossRow,
    "teachers": TeacherRow,
    "tuning": TuningRow,
}
SUMMARY = "summary.json"
PROVENANCE = "provenance.json"
Row = TypeVar("Row")


@dataclass(frozen=True)
class Metrics:
    """The content of a metrics folder; scores in `trials` are fractions, in `comparisons` points.

    A table without a file has no rows, and `provenance` is empty without its file. `files` has the text of every
    existing file, by name.
    """

    trials: pd.DataFrame
    comparisons: pd.DataFrame
    cost: pd.DataFrame
    looks: pd.DataFrame
    examples: pd.DataFrame
    calibration: pd.DataFrame
    reliability: pd.DataFrame
    across: pd.DataFrame
    curves: pd.DataFrame
    teachers: pd.DataFrame
    tuning: pd.DataFrame
    summary: dict[str, Any]
    provenance: dict[str, Any]
    files: dict[str, str]


def read_metrics(folder: Path) -> Metrics:
    """Read trials.csv, comparisons.csv, cost.csv and summary.json, and the other files that exist.

    Raises:
        ComparisonError: a required file is missing, or a file is not what its name says, or lacks a column.
    """
    tables = {name: _read_file(folder / f"{name}.csv", table) for name, table in NEEDED.items()}
    for name, table in OPTIONAL.items():
        path = folder / f"{name}.csv"
        tables[name] = _read_file(path, table) if path.exists() else pd.DataFrame(columns=columns(table))
    summary, made = _read_object(folder / SUMMARY), folder / PROVENANCE
    provenance = _read_object(made) if made.exists() else {}
    paths = [*(folder / f"{name}.csv" for name in tables), folder / SUMMARY, made]
    files = {path.name: path.read_text(encoding="utf-8") for path in paths if path.exists()}
    return Metrics(**tables, summary=summary, provenance=provenance, files=files)


def _read_file(path: Path, table: type[Any]) -> pd.DataFrame:
    try:
        return read_table(path.read_text(encoding="utf-8"), path, table)
    except FileNotFoundError:
        raise ComparisonError(f"{path}: missing; run the compare stage first (dvc repro compare)") from None
    except UnicodeDecodeError as error:
        raise ComparisonError(f"{path}: expected a CSV table, found: {error}; run compare again") from None


def read_table(text: str, path: object, table: type[Any]) -> pd.DataFrame:
    """A table of metrics/ from its text: the columns of `table`, then the other columns (a trial's scores).

    Names stay text, even if they look like something else: a task can be called "null" or "1e3".

    Args:
        path: the text's file, for messages.
        table: a dataclass of `schema`.

    Raises:
        ComparisonError: the text is not a table, lacks a required column, or has text in a column of numbers.
    """
    types = plain_types(table)
    try:
        header = pd.read_csv(StringIO(text), nrows=0).columns
        blank = {column: ["", "nan", "NaN"] for column in header if types.get(column) not in (str, bool)}
        texts = {column: str for column in header if types.get(column) in (str, bool)}
        frame = pd.read_csv(StringIO(text), dtype=texts, keep_default_na=False, na_values=blank)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ComparisonError(f"{path}: expected a CSV table, found: {error}; run compare again") from None
    lacking = [column for column in columns(table) if column not in header]
    needed = [column for column in lacking if column not in defaults(table)]
    if needed:
        present = ", ".join(header)
        raise ComparisonError(f"{path}: expected the columns {', '.join(needed)}, found {present}")
    _check_numbers(frame, types, path)
    later = {column: defaults(table)[column] for column in lacking}
    flags = {name: frame[name].str.lower() == "true" for name in texts if types[name] is bool}
    return frame.assign(**flags, **later)


def _check_numbers(frame: pd.DataFrame, types: Mapping[str, type[Any]], path: object) -> None:
    for column in (name for name in frame if types.get(str(name)) in (int, float)):
        given = frame[column].dropna()
        wrong = given[pd.to_numeric(given, errors="coerce").isna()]
        if len(wrong):
            raise ComparisonError(
                f"{path}: column {column}: expected numbers, found {quoted(str(wrong.iloc[0]))}; run compare again"
            )


def rows_of(table: type[Row], frame: pd.DataFrame) -> Iterator[Row]:
    """The rows of a table of metrics/, with None for blank numbers; not for trials.csv, whose columns vary."""
    types = plain_types(table)
    named = frame[columns(table)].astype(object)
    for record in named.where(named.notna(), None).itertuples(index=False, name=None):
        yield table(**{name: _typed(value, types[name]) for name, value in zip(types, record, strict=True)})


def _typed(value: Any, kind: type[Any]) -> Any:
    """The value in its schema's type: pandas turns integers into floats if one of them is blank."""
    if value is None:
        return "" if kind is str else None
    return kind(value)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ComparisonError(f"{path}: missing; run the compare stage first (dvc repro compare)") from None
    except ValueError as error:
        raise ComparisonError(f"{path}: expected JSON, found: {error}; run compare again") from None
    if not isinstance(content, dict):
        raise ComparisonError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
