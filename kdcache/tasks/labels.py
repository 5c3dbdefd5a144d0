"""Labels, checked: classes as indices, targets as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kdcache.errors import TaskError
from kdcache.tasks.columns import is_blank, listed, plain, row_numbers


@dataclass(frozen=True)
class Labels:
    """Per split int64 class indices or float64 targets, [N]; and the class names in order ([] if real)."""

    values: dict[str, npt.NDArray[Any]]
    names: list[str]


def read_labels(columns: dict[str, pa.ChunkedArray], names: list[str] | None, regression: bool) -> Labels:
    """Class indices or real targets of every split.

    Args:
        columns: the label column of every split; `train` is one of them.
        names: class names in order where the data declares them (`ClassLabel`), else None.

    Raises:
        TaskError: missing or hidden (-1) labels; a type that does not fit; gaps; a class that train lacks.
    """
    columns = {split: plain(column) for split, column in columns.items()}
    for split, column in columns.items():
        if column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy())
            raise TaskError(
                f"{split}: the label is missing in {row_numbers(rows)}; remove or fill these rows"
            )
    if regression:
        return Labels({split: _targets(split, column) for split, column in columns.items()}, [])
    kinds = {split: _kind(split, column.type) for split, column in columns.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{kind} in {split}" for split, kind in kinds.items())
        raise TaskError(f"the labels are of different types: {found}; write them the same way in every split")
    values, names = _indices(columns, kinds["train"], names)
    _refuse_absent(values, names)
    return Labels(values, names)


def _targets(split: str, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise TaskError(f"{split}: a regression needs numbers as labels, found {column.type}")
    values = np.asarray(column.to_numpy(), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise TaskError(f"{split}: the label is NaN or infinite in {row_numbers(bad)}; remove these rows")
    return values


def _kind(split: str, kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "true/false"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    advice = "labels must be integers 0..K-1, strings or booleans"
    if pa.types.is_floating(kind):
        advice += "; for a regression choose the metrics pearson or spearman"
    raise TaskError(f"{split}: the labels are {kind}; {advice}")


def _indices(
    columns: dict[str, pa.ChunkedArray], kind: str, names: list[str] | None
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    if kind == "string":
        return _from_strings(columns, names)
    values = {split: _integers(split, column) for split, column in columns.items()}
    for split, found in values.items():
        _refuse_negative(split, found)
    if names is None:
        names = ["false", "true"] if kind == "true/false" else _names_of_integers(values)
    for split, found in values.items():
        if len(found) and found.max() >= len(names):
            declared = f"the {len(names)} declared classes ({listed(names)})"
            raise TaskError(f"{split}: label {found.max()} is outside {declared}, numbered from 0")
    return values, names


def _from_strings(
    columns: dict[str, pa.ChunkedArray], names: list[str] | None
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    strings = {split: column.cast(pa.string()) for split, column in columns.items()}
    for split, column in strings.items():
        blank = np.flatnonzero(is_blank(column))
        if len(blank):
            raise TaskError(
                f"{split}: the label is an empty text in {row_numbers(blank)}; remove or fill these rows"
            )
    known = sorted(pc.unique(strings["train"]).to_pylist()) if names is None else names
    values = {}
    for split, column in strings.items():
        found = pc.index_in(column, value_set=pa.array(known, pa.string()))
        if found.null_count:
            unseen = sorted(set(column.filter(found.is_null()).to_pylist()))
            what = f"labels that train does not have: {listed(unseen)} (train has {listed(known)})"
            raise TaskError(f"{split}: {what}; a class must be in train to be learnt")
        values[split] = np.asarray(found.to_numpy(), dtype=np.int64)
    return values, known


def _integers(split: str, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    try:
        return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowInvalid as error:
        raise TaskError(f"{split}: a label does not fit 64 bits: {error}") from None


def _refuse_negative(split: str, values: npt.NDArray[np.int64]) -> None:
    bad = np.flatnonzero(values < 0)
    if not len(bad):
        return
    if (values[bad] == -1).all():
        what = f"the label is -1 in {row_numbers(bad)}, which means hidden (as in the test splits of GLUE)"
        raise TaskError(f"{split}: {what}; use a split with labels")
    raise TaskError(f"{split}: negative labels in {row_numbers(bad)}; labels must be 0..K-1")


def _names_of_integers(values: dict[str, npt.NDArray[np.int64]]) -> list[str]:
    found = np.unique(np.concatenate(list(values.values())))
    if not np.array_equal(found, np.arange(len(found))):
        raise TaskError(
            f"integer labels must be 0..K-1 without gaps, found {listed(found.tolist())}; "
            "renumber them, or write them as strings"
        )
    return [str(label) for label in found.tolist()]


def _refuse_absent(values: dict[str, npt.NDArray[np.int64]], names: list[str]) -> None:
    if len(names) < 2:
        raise TaskError(f"a classification needs at least two classes, train has {listed(names) or 'none'}")
    counts = np.bincount(values["train"], minlength=len(names))
    absent = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if absent:
        raise TaskError(
            f"train: no row of {'class' if len(absent) == 1 else 'classes'} {listed(absent)} "
            f"(classes: {listed(names)}); a class must be in train to be learnt"
        )
