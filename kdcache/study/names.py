"""Names of tasks, models and methods, and lists of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator

from kdcache.system.names import LONGEST_NAME, NAME
from kdcache.system.quoting import quoted

# Texts that some readers of params.yaml (YAML 1.1 or 1.2) or of metrics/*.csv (pandas, R) take for something else.
# Quotes do not help: `dvc exp run -S` rewrites the file with only the quotes that YAML 1.2 needs, and a CSV has none.
MISREAD = {
    "true or false": re.compile("true|false|yes|no|on|off|y|n", re.IGNORECASE),
    "a missing value": re.compile("null|none|nil|na|nan", re.IGNORECASE),
    "a date": re.compile(r"\d{4}-\d{1,2}-\d{1,2}"),
    "a number": re.compile(
        r"[\d_]+|[\d_]+e[+-]?[\d_]+|0x[\da-f_]+|0o[0-7_]+|0b[01_]+|inf|infinity", re.IGNORECASE
    ),
}


def teacher_names(teacher: str | Iterable[str] | None) -> tuple[str, ...]:
    """The value of a key `teacher` as names: none, one, or the members of an ensemble."""
    return (teacher,) if isinstance(teacher, str) else tuple(teacher or ())


def is_name(text: str) -> bool:
    """Whether a text can be the name of a task, a model or a method."""
    try:
        _check_name(text)
    except ValueError:
        return False
    return True


def _check_name(name: object) -> object:
    if not isinstance(name, str):
        raise ValueError(f"a name is text, found {quoted(name)}; begin it with a letter")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a name has at most {LONGEST_NAME} characters, found {len(name)}: {quoted(name)}")
    if not NAME.fullmatch(name):
        raise ValueError(f"a name has letters, digits, '-' and '_' only, found {quoted(name)}")
    for meaning, pattern in MISREAD.items():
        if pattern.fullmatch(name):
            raise ValueError(
                f"found {name!r}, {meaning} to some readers of YAML or CSV; rename it, quotes do not help"
            )
    return name


def _check_teachers(value: object) -> object:
    if not isinstance(value, list | tuple):
        return _check_name(value)
    names = [_check_name(name) for name in value]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected a teacher or a list of different teachers, found {quoted(value)}")
    return tuple(names)


Name = Annotated[str, BeforeValidator(_check_name)]
Teachers = Annotated[str | tuple[str, ...], BeforeValidator(_check_teachers)]
