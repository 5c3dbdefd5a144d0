"""Rows into tables and tables into bytes: no rounding noise, equal bytes, and back again."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import ComparisonError
from kdcache.results import schema
from kdcache.results.reading import read_table, rows_of
from kdcache.results.schema import AcrossRow, ComparisonRow, TrialRow, columns, plain_types, scales
from kdcache.results.writing import NOISE, as_written, settle, tabulate, write_table
from kdcache.statistics import compare, compare_across_tasks
from tests.statistics.helpers import make_study, make_trials

CSV = [
    *(schema.CostRow, schema.CurveRow, ComparisonRow, schema.ExampleRow, schema.CalibrationRow),
    *(schema.ReliabilityRow, AcrossRow, schema.TeacherRow),
]
NAMES = st.text(string.ascii_letters + "\",;: '\n{}#=-é", min_size=1).filter(
    lambda text: text == text.strip()
)


def row(table: type[Any], draw: random.Random, name: str, size: float = 1.0) -> Any:
    """A row with a random value in every column; numbers of up to `size` times their scale."""
    makers = {
        str: lambda column: name,
        int: lambda column: draw.randrange(1000),
        bool: lambda column: draw.random() < 0.5,
        float: lambda column: draw.uniform(-1, 1) * size * scales(table).get(column, 1.0),
    }
    return table(**{column: makers[kind](column) for column, kind in plain_types(table).items()})


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(CSV), st.integers(0, 2**32), NAMES)
def test_rows_that_were_written_are_read_back(
    tmp_path_factory: Any, table: Any, seed: int, name: str
) -> None:
    path = tmp_path_factory.mktemp("table") / "t.csv"
    rows = [row(table, random.Random(seed + place), name) for place in range(3)]
    write_table(tabulate(table, rows), path)
    again = list(rows_of(table, read_table(path.read_bytes().decode(), path, table)))
    for before, after in zip(rows, again, strict=True):
        for column in columns(table):
            value = getattr(before, column)
            expected = float(f"{value:.6g}") if isinstance(value, float) else value
            assert getattr(after, column) == expected, column


@pytest.mark.parametrize("table", CSV, ids=lambda kind: str(kind.__name__))
def test_noise_is_written_as_zero_and_nothing_else_is(table: Any, tmp_path: Path) -> None:
    """Of a number's scale 1e-13 is rounding, 1e-9 is a value; a p-value of 1e-300 is a p-value."""
    for size, is_noise in ((1e-13, True), (1e-9, False)):
        frame = tabulate(table, [row(table, random.Random(7), "a", size)])
        for column in scales(table):
            assert bool(frame[column][0] == 0.0) is is_noise, column
    floats = [
        name for name, kind in plain_types(table).items() if kind is float and name not in scales(table)
    ]
    tiny = tabulate(table, [row(table, random.Random(7), "a", 1e-300)])
    assert all(tiny[column][0] != 0.0 for column in floats)


def test_a_score_that_is_noise_is_zero() -> None:
    """A correlation of constant predictions can come out as 1e-17."""
    names = {
        "task": "t",
        "student": "s",
        "init": "scratch",
        "checkpoint": "c",
        "layers": None,
        "regularizer": "r",
    }
    scored = [{"accuracy": 0.5, "matthews": 1e-17}, {"accuracy": 0.5, "pearson": 0.25}]
    rows = [TrialRow(**names, seed=seed, scores=of, identity="i") for seed, of in enumerate(scored)]
    frame = tabulate(TrialRow, rows)
    assert list(frame.columns) == [
        *columns(TrialRow)[:9], "accuracy", "matthews", "pearson", *columns(TrialRow)[9:]
    ]  # fmt: skip
    assert frame["matthews"][0] == 0.0
    assert (frame["pearson"][1], np.isnan(frame["pearson"][0])) == (0.25, True)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.integers(-9, 9), min_size=3, max_size=6).filter(lambda steps: len(set(steps)) > 1),
    st.floats(60, 90),
)
def test_differences_that_cancel_leave_no_noise_in_any_table(steps: list[int], base: float) -> None:
    """Gains of +s and -s tenths of a point on two tasks: every mean difference over tasks is 0 up to rounding."""
    seeds = list(range(2 * len(steps)))
    gains = np.array([*steps, *(-step for step in steps)]) / 10
    cells = {(task, "tiny", "base"): [base] * len(seeds) for task in ("a", "b")}
    cells |= {("a", "tiny", "smooth"): list(base + gains), ("b", "tiny", "smooth"): list(base - gains)}
    trials, study = make_trials(cells), make_study(tasks=["a", "b"], seeds=seeds)
    tables = ((ComparisonRow, compare(trials, study)), (AcrossRow, compare_across_tasks(trials, study)))
    for table, frame in tables:
        for column, scale in scales(table).items():
            numbers = frame[column].dropna().astype(float).abs()
            assert ((numbers == 0) | (numbers > NOISE * scale)).all(), column
    assert (tables[0][1]["difference"] == 0).all()


def test_settle_keeps_what_is_no_noise() -> None:
    assert [settle(value, 100.0) for value in (1e-12, -1e-12, 1e-6, -3.0)] == [0.0, 0.0, 1e-6, -3.0]


def test_a_table_without_rows_has_its_columns() -> None:
    assert list(tabulate(ComparisonRow, []).columns) == columns(ComparisonRow)


def test_plain_values_as_the_file_has_them() -> None:
    frame = pd.DataFrame(
        {"n": [1, 2], "x": [1 / 3, float("nan")], "flag": [True, False], "name": ["a", None]}
    )
    assert as_written(frame) == [
        {"n": 1, "x": 0.333333, "flag": True, "name": "a"},
        {"n": 2, "x": None, "flag": False, "name": None},
    ]


def test_an_older_file_is_read_with_the_defaults() -> None:
    """comparisons.csv of the first version had no seeds to settle, no family, no note."""
    needed = [name for name in columns(ComparisonRow) if name not in schema.defaults(ComparisonRow)]
    types = plain_types(ComparisonRow)
    values = {str: "x", int: "3", float: "0.5", bool: "true"}
    text = f"{','.join(needed)}\n{','.join(values[types[name]] for name in needed)}\n"
    (old,) = rows_of(ComparisonRow, read_table(text, "comparisons.csv", ComparisonRow))
    assert (old.family, old.note, old.negligible, old.seeds_to_settle, old.cliffs_delta) == (
        "",
        "",
        False,
        None,
        None,
    )
    assert (old.seeds, old.difference, old.verdict) == (3, 0.5, "x")


def test_a_needed_column_is_named() -> None:
    with pytest.raises(ComparisonError, match=r"c\.csv: expected the columns .*verdict.*, found task"):
        read_table("task\na\n", "c.csv", ComparisonRow)


def test_further_columns_of_trials_are_scores() -> None:
    needed = "task,student,init,checkpoint,layers,regularizer,seed,accuracy,identity"
    frame = read_table(f"{needed}\nnull,1e3,scratch,NA,,base,0,0.5,0e1\n", "trials.csv", TrialRow)
    assert frame.loc[0, ["task", "student", "checkpoint", "identity"]].tolist() == [
        "null",
        "1e3",
        "NA",
        "0e1",
    ]
    assert frame["accuracy"][0] == 0.5
