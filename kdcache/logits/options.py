"""The types of the options of `write_logits` and `write_token_logits`, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from kdcache.errors import CacheError
from kdcache.hashing.content import plain_value, type_name


def check_integer(path: Path, name: str, value: Any) -> None:
    """Refuse an option that is no integer.

    Args:
        path: the cache's folder, for the message.
        name: the option's name.

    Raises:
        CacheError: the message says what was found.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise _unexpected(path, name, "an integer", value)


def check_text(path: Path, name: str, value: Any) -> None:
    """Refuse an option that is no text."""
    if not isinstance(value, str):
        raise _unexpected(path, name, "a text", value)


def check_function(path: Path, name: str, value: Any) -> None:
    """Refuse an option that is neither None nor a function."""
    if value is not None and not callable(value):
        raise _unexpected(path, name, "a function", value)


def number(path: Path, name: str, value: Any) -> float:
    """An option that is a number, as a float."""
    plain = plain_value(value)
    if not isinstance(plain, Real) or isinstance(plain, bool):
        raise _unexpected(path, name, "a number", value)
    return float(plain)


def names(path: Path, name: str, values: Any) -> list[Any]:
    """An option that has several names, as a list. One text is not taken for the names of its letters."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise _unexpected(path, name, "a list of names", values)
    return list(values)


def of_split(path: Path, name: str, values: Any, split: str) -> Any:
    """A split's part of an option that is given for all splits, or for each split by its name."""
    if not isinstance(values, Mapping):
        return values
    if split not in values:
        raise CacheError(
            f"{path}: {name} has no split {split!r}, found {', '.join(map(repr, values)) or 'none'}; give one for "
            "each split of the data"
        )
    return values[split]


def _unexpected(path: Path, name: str, expected: str, value: Any) -> CacheError:
    return CacheError(f"{path}: {name} must be {expected}, found {value!r:.80} ({type_name(value)})")
