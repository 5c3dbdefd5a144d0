"""The mistakes of params.yaml in words: pydantic's errors, a sentence each."""

from __future__ import annotations

import difflib
from typing import Any

from kdcache.study.schema import GROUPS, Comparison, Study
from kdcache.study.task import Augment, Source
from kdcache.study.values import NUMBER, SCHEDULE, Params, Schedule

UNSEEN = {"[key]", NUMBER, SCHEDULE}  # pydantic's parts of a path that are not in the file


def describe_mistake(item: Any) -> str:
    loc = tuple(str(part) for part in item["loc"] if part not in UNSEEN)
    return f"{'.'.join(loc) or '(top level)'}: {_wording(item, loc)}"


def _wording(item: Any, loc: tuple[str, ...]) -> str:
    found = item.get("input")
    if item["type"] == "extra_forbidden":
        return _unknown_key(loc)
    if item["type"] == "missing":
        return "missing"
    if item["type"] in ("model_type", "dict_type"):
        return f"expected a mapping of keys, found {found!r}" + (
            " (write {} for none)" if found is None else ""
        )
    if item["type"] == "too_short":
        return f"expected at least {item['ctx']['min_length']}, found {item['ctx']['actual_length']}"
    if item["type"] == "too_long":
        return f"expected at most {item['ctx']['max_length']}, found {len(found)}"
    if item["type"] == "string_pattern_mismatch":
        return f"expected package.module:name, found {found!r}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if isinstance(found, str | int | float | bool | None) and f"found {found!r}" not in message:
        message += f", found {found!r}"
    return message


def _unknown_key(loc: tuple[str, ...]) -> str:
    known = list(_model_at(loc[:-1]).model_fields)
    close = difflib.get_close_matches(loc[-1], known, n=1)
    return (
        f"unknown key; did you mean {close[0]!r}?"
        if close
        else f"unknown key (there are: {', '.join(known)})"
    )


def _model_at(loc: tuple[str, ...]) -> type[Params]:
    """The model whose keys stand at a path of the file, such as (), (tasks, rte) or (tasks, rte, source)."""
    if not loc:
        return Study
    if loc[-1] in ("source", "augment"):
        return Source if loc[-1] == "source" else Augment
    if len(loc) == 3 and loc[-1] in ("alpha", "temperature"):
        return Schedule
    return GROUPS.get(loc[0], Comparison)
