"""What messages quote is cut."""

from __future__ import annotations

from kdcache.system.quoting import LONGEST, listed, quoted, shown


def test_a_short_value_is_quoted_as_python_writes_it() -> None:
    for value in ("no", 3, 0.5, None, ["a", 1], {"b": [2]}):
        assert quoted(value) == repr(value)


def test_a_long_value_is_cut() -> None:
    assert quoted("x" * 1000).replace("x", "") == "'...'"
    assert len(quoted("x" * 1000)) == 80
    assert quoted(list(range(1000))) == "[0, 1, 2, 3, 4, 5, ...]"
    assert quoted([[[[[1]]]]]) == "[[[[...]]]]"
    assert len(quoted({"a" * 500: ["b" * 500] * 50})) < 1000


def test_a_number_that_python_does_not_write_is_no_error() -> None:
    assert quoted(10**5000) == "<int of thousands of digits>"
    assert quoted([10**5000]) == "<list of thousands of digits>"


def test_a_name_never_commands_a_terminal() -> None:
    assert shown("kd-2") == "kd-2"
    assert shown("\x1b[2J") == "'\\x1b[2J'"
    assert shown("a\u202eb") == "'a\\u202eb'"
    assert shown("x" * 100) == "x" * LONGEST + "..."
    assert shown(3) == "3"


def test_names_in_a_row_are_cut() -> None:
    assert listed([]) == "none"
    assert listed(f"n{i}" for i in range(3)) == "n0, n1, n2"
    assert listed(["a", "b", "c", "d"], most=2) == "a, b, ... (4 in all)"
