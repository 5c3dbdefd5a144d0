"""What a report is made from: the files of `metrics/`, read and checked, and nothing else.

Four are needed. The others were added later: without one the report says less, it does not fail.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from kdcache.errors import ComparisonError

# Columns that hold names: read as text, so that a task called "null" or "1e3" keeps its name.
TEXT = frozenset(
    (
        *("task", "student", "family", "init", "checkpoint", "teacher", "regularizer", "metric", "baseline"),
        *("verdict", "note", "device", "identity", "kind", "model", "settled_by", "direction"),
        *("scope", "group"),
    )
)
NEEDED = {
    "trials": ("task", "student", "init", "checkpoint", "layers", "regularizer", "seed"),
    "comparisons": (
        *("task", "student", "init", "regularizer", "metric", "baseline", "seeds", "mean", "sd"),
        *("baseline_mean", "baseline_sd", "difference", "ci_low", "ci_high", "margin", "verdict"),
        *("detectable", "permutation_floor"),
    ),
    "cost": ("kind", "task", "model", "regularizer", "seed", "seconds", "peak_memory_mb", "device"),
}
OPTIONAL = {
    "examples": (
        *("task", "student", "regularizer", "rows", "seeds", "difference", "gained", "lost"),
        *("rows_p_corrected", "sd_rows", "sd_seeds", "sd_total", "total_low", "total_high", "note"),
    ),
    "calibration": (
        *("task", "student", "regularizer", "metric", "difference", "ci_low", "ci_high", "direction", "note"),
    ),
    "curves": ("task", "student", "regularizer", "epoch", "seeds", "loss", "sd"),
    "reliability": ("task", "student", "init", "regularizer", "rows", "confidence", "accuracy"),
    "across": (
        *("scope", "group", "init", "regularizer", "tasks", "difference", "ci_low", "ci_high"),
        *("wilcoxon_p_corrected", "wilcoxon_floor", "permutation_p_corrected", "improvement"),
        *("bayes_worse", "bayes_within", "bayes_better", "ranked_tasks", "mean_rank", "friedman_p"),
        *("critical_difference", "note"),
    ),
}
SUMMARY = "summary.json"
PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Metrics:
    """The content of a metrics folder; scores in `trials` are fractions, in `comparisons` points.

    A table whose file is not there has no rows, and `provenance` is empty without its file. `files`: the text of
    every file that is there, by name.
    """

    trials: pd.DataFrame
    comparisons: pd.DataFrame
    cost: pd.DataFrame
    examples: pd.DataFrame
    calibration: pd.DataFrame
    reliability: pd.DataFrame
    across: pd.DataFrame
    curves: pd.DataFrame
    summary: dict[str, Any]
    provenance: dict[str, Any]
    files: dict[str, str]


def read_metrics(folder: Path) -> Metrics:
    """Read trials.csv, comparisons.csv, cost.csv and summary.json, and what else there is.

    Raises:
        ComparisonError: a needed file is missing, or a file is not what its name says or lacks a column.
    """
    tables = {name: _read_table(folder / f"{name}.csv", columns) for name, columns in NEEDED.items()}
    for name, columns in OPTIONAL.items():
        path = folder / f"{name}.csv"
        tables[name] = _read_table(path, columns) if path.exists() else pd.DataFrame(columns=list(columns))
    summary, made = _read_object(folder / SUMMARY), folder / PROVENANCE
    provenance = _read_object(made) if made.exists() else {}
    paths = [*(folder / f"{name}.csv" for name in tables), folder / SUMMARY, made]
    files = {path.name: path.read_text(encoding="utf-8") for path in paths if path.exists()}
    return Metrics(**tables, summary=summary, provenance=provenance, files=files)


def flags(table: pd.DataFrame, column: str) -> list[bool]:
    """A column of true and false as Python booleans; all false when the column is not there."""
    return (
        [str(flag).lower() == "true" for flag in table[column]] if column in table else [False] * len(table)
    )


def _read_table(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    try:
        return read_table(path.read_text(encoding="utf-8"), path, needed)
    except FileNotFoundError:
        raise ComparisonError(f"{path}: missing; run the compare stage first (dvc repro compare)") from None
    except UnicodeDecodeError as error:
        raise ComparisonError(f"{path}: expected a CSV table, found: {error}; run compare again") from None


def read_table(text: str, path: object, needed: tuple[str, ...]) -> pd.DataFrame:
    """A metrics table from its text; names stay text, whatever they look like.

    Args:
        path: where the text is from, for the message.

    Raises:
        ComparisonError: the text is no table, or lacks a needed column.
    """
    try:
        header = pd.read_csv(StringIO(text), nrows=0).columns
        blank = {column: ["", "nan", "NaN"] for column in header if column not in TEXT}
        names = {column: str for column in header if column in TEXT}
        table = pd.read_csv(StringIO(text), dtype=names, keep_default_na=False, na_values=blank)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ComparisonError(f"{path}: expected a CSV table, found: {error}; run compare again") from None
    missing = [column for column in needed if column not in table.columns]
    if missing:
        found = ", ".join(table.columns)
        raise ComparisonError(f"{path}: expected the columns {', '.join(missing)}, found {found}")
    return table


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
