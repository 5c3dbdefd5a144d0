"""Names of tasks, models and methods, and lists of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator

from kdcache.system.names import NAME
from kdcache.system.quoting import quoted


def teacher_names(teacher: str | Iterable[str] | None) -> tuple[str, ...]:
    """The value of a key `teacher` as names: none, one, or the members of an ensemble."""
    return (teacher,) if isinstance(teacher, str) else tuple(teacher or ())


def _check_name(name: object) -> object:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        hint = "" if isinstance(name, str) else " (quote it if it is meant as text)"
        raise ValueError(f"a name has letters, digits, '-' and '_' only, found {quoted(name)}{hint}")
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
