"""Mistakes in params.yaml in words: each of pydantic's errors becomes a sentence."""

from __future__ import annotations

import difflib
from typing import Any

from kdcache.study.estimates import TokenEstimate
from kdcache.study.models import Lora
from kdcache.study.schema import GROUPS, Comparison, Study
from kdcache.study.task import Augment, Source
from kdcache.study.tuning import RecipeSpace, Space, Tuning
from kdcache.study.values import FOLDER, FOLDERS, NUMBER, SCHEDULE, Params, Schedule
from kdcache.system.quoting import LONGEST, listed, quoted, shown

UNSEEN = {"[key]", FOLDER, FOLDERS, NUMBER, SCHEDULE}  # pydantic's parts of a path that are not in the file
OF_MODEL: dict[str, type[Params]] = {"cache": TokenEstimate, "lora": Lora}
OF_METHOD: dict[str, type[Params]] = {"alpha": Schedule, "temperature": Schedule}
OF_TUNING: dict[tuple[str, ...], type[Params]] = {(): Tuning, ("teachers",): RecipeSpace}  # others are spaces
# The class of an object within an entry, by the entry's group and the object's key.
INNER: dict[str, dict[str, type[Params]]] = {
    "tasks": {"source": Source, "augment": Augment},
    "teachers": OF_MODEL,
    "students": OF_MODEL,
    "regularizers": OF_METHOD,
    "distillers": OF_METHOD,
}
SCALAR = str | int | float | bool | None
NONE = "write {} for none"
SOME = "name at least one"
# What to write in the place of an empty value, by its path: {} only where an empty mapping is allowed.
ADVICE: dict[tuple[str, ...], str] = {
    ("tasks",): SOME,
    ("teachers",): NONE,
    ("students",): SOME,
    ("regularizers",): SOME,
    ("distillers",): NONE,
    ("comparison",): "give it baseline and margin",
}


def describe_mistake(error: Any) -> str:
    """One item of a ValidationError's `errors()` as `path.in.the.file: what is wrong`."""
    path = tuple(str(part) for part in error["loc"] if part not in UNSEEN)
    return f"{'.'.join(map(shown, path)) or '(top level)'}: {_wording(error, path)}"


def _wording(error: Any, path: tuple[str, ...]) -> str:
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return "missing"
    if kind in ("model_type", "dict_type"):
        return f"expected a mapping of keys, found {quoted(value)}{_advice(path) if value is None else ''}"
    if kind in ("list_type", "tuple_type"):
        return f"expected a list{_as_list(value)}, found {quoted(value)}"
    if kind == "too_short":
        return f"expected at least {error['ctx']['min_length']}, found {error['ctx']['actual_length']}"
    if kind == "too_long":
        return f"expected at most {error['ctx']['max_length']}, found {len(value or ())}"
    if kind == "string_pattern_mismatch":
        return f"expected package.module:name, found {quoted(value)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if isinstance(value, SCALAR) and f"found {quoted(value)}" not in message:
        message += f", found {quoted(value)}"
    return message


def _advice(path: tuple[str, ...]) -> str:
    said = NONE if path[:-1] == ("regularizers",) else ADVICE.get(path)  # base: {} is plain fine-tuning
    return f" ({said})" if said else ""


def _as_list(value: object) -> str:
    """How to write a value as a list of one; empty if it is no single value."""
    return f", such as [{shown(value)}]" if isinstance(value, str | int | float) and value != "" else ""


def _unknown_key(path: tuple[str, ...]) -> str:
    known = list(_model_at(path[:-1]).model_fields)
    close = difflib.get_close_matches(path[-1][:LONGEST], known, n=1)
    return (
        f"unknown key; did you mean {close[0]!r}?"
        if close
        else f"unknown key (there are: {listed(known, len(known))})"
    )


def _model_at(path: tuple[str, ...]) -> type[Params]:
    """The class of the object at a path of the file, such as (), (tasks, rte) or (tasks, rte, source)."""
    if not path:
        return Study
    if path[0] == "tuning":
        return OF_TUNING.get(path[1:], Space)
    entry = GROUPS.get(path[0], Comparison)
    return INNER.get(path[0], {}).get(path[2], entry) if len(path) > 2 else entry
