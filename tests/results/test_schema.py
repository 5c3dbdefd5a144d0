"""The tables' columns, units and what older files may lack."""

import re
from dataclasses import fields, is_dataclass

import pytest

from kdcache.results import schema
from kdcache.results.schema import ComparisonRow, TrialRow, columns, defaults, plain_types, scales

TABLES = [kind for kind in vars(schema).values() if is_dataclass(kind) and kind.__name__.endswith("Row")]


def test_there_is_a_class_for_every_table() -> None:
    names = {kind.__name__ for kind in TABLES}
    assert names == {
        *(
            "TrialRow",
            "CostRow",
            "CurveRow",
            "TeacherRow",
            "TuningRow",
            "ComparisonRow",
            "LookRow",
            "ExampleRow",
            "CalibrationRow",
            "ReliabilityRow",
        ),
        *("AcrossRow", "InteractionRow", "TeacherNeededRow", "StorageRow"),
    }


@pytest.mark.parametrize("table", TABLES, ids=lambda kind: str(kind.__name__))
def test_every_column_has_a_plain_type(table: type) -> None:
    types = plain_types(table)
    assert list(types) == columns(table)
    assert set(types.values()) <= {str, int, float, bool}


def test_scores_stand_for_several_columns() -> None:
    assert "scores" in {field.name for field in fields(TrialRow)}
    assert "scores" not in columns(TrialRow)
    assert schema.fields_before_scores(TrialRow) == columns(TrialRow).index("seed") + 1


@pytest.mark.parametrize("table", TABLES, ids=lambda kind: str(kind.__name__))
def test_no_p_value_has_a_scale(table: type) -> None:
    """A p-value or a chance can be as small as it likes; everything else that is computed from scores has a scale."""
    numbers = {name for name, kind in plain_types(table).items() if kind is float}
    p_values = {name for name in numbers if re.search(r"(^|_)[pq]($|_)|floor|chance", name)}
    declared = {"margin", "share", "seconds", "peak_memory_mb"}
    assert numbers - set(scales(table)) == p_values | (numbers & declared)


def test_points_are_a_hundred_times_fractions() -> None:
    of_comparison = scales(ComparisonRow)
    assert (of_comparison["difference"], of_comparison["hedges_g"]) == (100.0, 1.0)


def test_what_an_older_file_may_lack() -> None:
    assert defaults(ComparisonRow)["settled_by"] == ""
    assert "difference" not in defaults(ComparisonRow)
