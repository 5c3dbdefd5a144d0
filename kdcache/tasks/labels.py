"""Labels, checked: classes as indices, targets as numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kdcache.errors import TaskError
from kdcache.tasks.columns import (
    LONGEST,
    Numbered,
    as_integers,
    is_blank,
    is_text,
    listed,
    look,
    plain,
    row_numbers,
    shown,
    shown_all,
    without_decimals,
)

WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # an integer of at most 64 bits as it is always written
K = TypeVar("K")
At = Callable[[npt.NDArray[np.int64]], str]  # rows in a message, see `row_numbers`


@dataclass(frozen=True)
class Labels:
    """For each split int64 class indices or float64 targets, [N]; and the class names in order ([] for targets)."""

    values: dict[str, npt.NDArray[Any]]
    names: list[str]


def read_labels(
    columns: dict[str, pa.ChunkedArray],
    names: list[str] | None,
    regression: bool,
    numbered: Mapping[str, Numbered] | None = None,
) -> Labels:
    """Class indices or real targets of every split.

    Args:
        columns: the label column of every split; `train` is one of them.
        names: class names in order where the data declares them (`ClassLabel`), else None.
        numbered: what a message calls the row at a position of each split; default: its position.

    Raises:
        TaskError: labels are missing, hidden (-1) or of a wrong type; class numbers have gaps; train lacks a class; or
            two classes have names that are, or look, the same.
    """
    at = {split: partial(row_numbers, numbered=(numbered or {}).get(split, str)) for split in columns}
    columns = {split: plain(column) for split, column in columns.items()}
    for split, column in columns.items():
        if column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy())
            raise TaskError(f"{split}: the label is missing in {at[split](rows)}; remove or fill these rows")
    if regression:
        targets = {split: _targets(split, column, at[split]) for split, column in columns.items()}
        return Labels(targets, [])
    if names is not None:
        _refuse_twins(names)
    columns = among_integers(columns, names)
    kinds = {split: _kind(split, column.type) for split, column in columns.items()}
    if len(set(kinds.values())) > 1:
        types = ", ".join(f"{kind} in {split}" for split, kind in kinds.items())
        raise TaskError(f"the labels are of different types: {types}; write them the same way in every split")
    values, names = _indices(columns, kinds["train"], names, at)
    _refuse_absent(values, names)
    return Labels(values, names)


def among_integers(columns: Mapping[K, pa.ChunkedArray], names: list[str] | None) -> dict[K, pa.ChunkedArray]:
    """If some splits have integers and others texts (a CSV file has texts), turn the texts into integers too.

    Nothing changes if a text is no integer, or is the declared name of a class with another number.
    """
    texts = {key: column for key, column in columns.items() if is_text(column.type)}
    if not any(pa.types.is_integer(column.type) for column in columns.values()):
        return dict(columns)
    numbers = {key: as_integers(column) for key, column in texts.items()}
    if any(column is None or _name_others(column, names or []) for column in numbers.values()):
        return dict(columns)
    return {**columns, **numbers}


def _name_others(integers: pa.ChunkedArray, names: list[str]) -> bool:
    values = {str(value) for value in pc.unique(integers).to_pylist()}
    return any(name in values and name != str(index) for index, name in enumerate(names))


def similar_names(names: list[str], key: Callable[[str], str]) -> list[str]:
    """The first names that are the same by `key`, or none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return next((group for group in groups.values() if len(group) > 1), [])


def _targets(split: str, column: pa.ChunkedArray, at: At) -> npt.NDArray[np.float64]:
    column = without_decimals(column)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise TaskError(f"{split}: a regression needs numbers as labels, found {column.type}")
    values = np.asarray(column.to_numpy(), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise TaskError(f"{split}: the label is NaN or infinite in {at(bad)}; remove these rows")
    return values


def _kind(split: str, kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "true/false"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise TaskError(
            f"{split}: the labels are bytes that are not marked as text; write them as strings in UTF-8"
        )
    advice = "labels must be integers 0..K-1, strings or booleans"
    if pa.types.is_floating(kind):
        advice += "; for a regression choose the metrics pearson or spearman"
    raise TaskError(f"{split}: the labels are {kind}; {advice}")


def _indices(
    columns: dict[str, pa.ChunkedArray], kind: str, names: list[str] | None, at: Mapping[str, At]
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    if kind == "string":
        return _from_strings(columns, names, at)
    values = {split: _integers(split, column) for split, column in columns.items()}
    for split, indices in values.items():
        _refuse_negative(split, indices, at[split])
    if names is None:
        names = ["false", "true"] if kind == "true/false" else _names_of_integers(values)
    for split, indices in values.items():
        if len(indices) and indices.max() >= len(names):
            declared = f"the {len(names)} declared classes ({shown_all(names)})"
            raise TaskError(f"{split}: label {indices.max()} is outside {declared}, numbered from 0")
    return values, names


def _from_strings(
    columns: dict[str, pa.ChunkedArray], names: list[str] | None, at: Mapping[str, At]
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    strings = {split: column.cast(pa.string()) for split, column in columns.items()}
    for split, column in strings.items():
        blank = np.flatnonzero(is_blank(column))
        if len(blank):
            raise TaskError(
                f"{split}: the label is an empty text in {at[split](blank)}; remove or fill these rows"
            )
    known = names
    if known is None:
        known = _sorted(pc.unique(strings["train"]).to_pylist())
        _refuse_twins(known)
    values = {}
    for split, column in strings.items():
        indices = pc.index_in(column, value_set=pa.array(known, pa.string()))
        if indices.null_count:
            unseen = _sorted(pc.unique(column.filter(indices.is_null())).to_pylist())
            hint = "; -1 often means hidden, as in the test splits of GLUE" if unseen == ["-1"] else ""
            absent, present = shown_all(unseen, beside=known), shown_all(known, beside=unseen)
            problem = f"labels that train does not have: {absent} (train has {present}){hint}"
            raise TaskError(f"{split}: {problem}; a class must be in train to be learnt")
        values[split] = np.asarray(indices.to_numpy(), dtype=np.int64)
    return values, known


def _sorted(names: list[str]) -> list[str]:
    """Names in alphabetical order; whole numbers in numerical order ("2" before "10")."""
    return sorted(names, key=int) if all(map(WHOLE.fullmatch, names)) else sorted(names)


def _integers(split: str, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    try:
        return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowInvalid as error:
        raise TaskError(f"{split}: a label does not fit 64 bits: {error}") from None


def _refuse_negative(split: str, values: npt.NDArray[np.int64], at: At) -> None:
    bad = np.flatnonzero(values < 0)
    if not len(bad):
        return
    if (values[bad] == -1).all():
        problem = f"the label is -1 in {at(bad)}, which means hidden (as in the test splits of GLUE)"
        raise TaskError(f"{split}: {problem}; use a split with labels")
    raise TaskError(f"{split}: negative labels in {at(bad)}; labels must be 0..K-1")


def _names_of_integers(values: dict[str, npt.NDArray[np.int64]]) -> list[str]:
    labels = np.unique(np.concatenate(list(values.values())))
    if not np.array_equal(labels, np.arange(len(labels))):
        raise TaskError(
            f"integer labels must be 0..K-1 without gaps, found {listed(labels.tolist())}; "
            "renumber them, or write them as strings"
        )
    return [str(label) for label in labels.tolist()]


def _refuse_absent(values: dict[str, npt.NDArray[np.int64]], names: list[str]) -> None:
    if len(names) < 2:
        raise TaskError(
            f"a classification needs at least two classes, train has {shown_all(names) or 'none'}"
        )
    counts = np.bincount(values["train"], minlength=len(names))
    absent = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if absent:
        raise TaskError(
            f"train: no row of {'class' if len(absent) == 1 else 'classes'} {shown_all(absent)} "
            f"(classes: {shown_all(names)}); a class must be in train to be learnt"
        )


def _refuse_twins(names: list[str]) -> None:
    """Refuse classes whose names nobody could tell apart."""
    if not all(map(str.strip, names)):
        raise TaskError(f"a class has an empty name (classes: {', '.join(map(repr, names[:10]))})")
    same = similar_names(names, str)
    if same:
        raise TaskError(
            f"two classes are named {shown(same[0])} (classes: {shown_all(names)}); names must differ"
        )
    similar = similar_names(names, look)
    if similar:
        raise TaskError(
            f"classes that look the same: {', '.join(ascii(name[:LONGEST]) for name in similar)}; "
            "write each class in one way"
        )
