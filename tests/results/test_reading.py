"""Tables of metrics/ are read as the schema has them, or refused by their file and column."""

from __future__ import annotations

import pytest

from kdcache.errors import ComparisonError
from kdcache.results.reading import read_table, rows_of
from kdcache.results.schema import TuningRow, columns

ROW = ["null", "student", "1e3", "base", "1", "alpha 0.5", "1000", "accuracy", "0.5", "true"]


def read(**changed: str) -> list[TuningRow]:
    cells = dict(zip(columns(TuningRow), ROW, strict=True)) | changed
    text = f"{','.join(cells)}\n{','.join(cells.values())}\n"
    return list(rows_of(TuningRow, read_table(text, "metrics/tuning.csv", TuningRow)))


def test_names_stay_text_and_blank_numbers_are_none() -> None:
    (row,) = read(score="")
    assert (row.task, row.model, row.seed, row.score, row.chosen) == ("null", "1e3", 1000, None, True)


@pytest.mark.parametrize(("column", "value"), [("seed", "first"), ("score", "0,5"), ("setting", "one")])
def test_text_in_the_place_of_a_number_is_named(column: str, value: str) -> None:
    with pytest.raises(ComparisonError) as caught:
        read(**{column: f'"{value}"'})
    said = f"metrics/tuning.csv: column {column}: expected numbers, found '{value}'; run compare again"
    assert str(caught.value) == said
