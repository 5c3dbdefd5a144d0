"""The rows that `kdcache head` shows, with their columns from a prepared task."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.cli.analysis import class_names, task_rows
from kdcache.logits import LogitCache
from kdcache.logits.probabilities import log_softmax


def head_of(cache: LogitCache, split: str, rows: int, task: Path | None) -> list[dict[str, Any]]:
    """The first rows by id: `id`, `row_hash` (hex), the columns of a task if given, `logits`, `probabilities` (K > 1).

    A cache with V views gives V items for each row, each with its `view`.
    """
    part = cache.split(split)
    known = [{}] * len(part.ids) if task is None else _task_columns(cache, split, rows, task)
    shown = []
    for index in range(min(rows, len(part.ids))):
        row = {"id": int(part.ids[index]), "row_hash": f"{part.row_hashes[index]:016x}"}
        if cache.views is None:
            shown.append({**row, **known[index], **_outputs(part.logits[index])})
        else:
            shown += [
                {**row, "view": view, **known[index], **_outputs(logits)}
                for view, logits in enumerate(part.logits[index])
            ]
    return shown


def _outputs(logits: npt.NDArray[np.float32]) -> dict[str, Any]:
    """`logits` [K] and, for a classification, their `probabilities`."""
    outputs = {"logits": logits.tolist()}
    if len(logits) > 1:
        outputs["probabilities"] = np.exp(log_softmax(logits.astype(np.float64))).tolist()
    return outputs


def _task_columns(cache: LogitCache, split: str, rows: int, task: Path) -> list[dict[str, Any]]:
    """Text and text_pair, or the image's size, and the label, with classes by name."""
    table = task_rows(cache, split, task).slice(0, rows).drop_columns(["id", "row_hash"])
    names = class_names(cache)
    return [{name: _value(name, value, names) for name, value in row.items()} for row in table.to_pylist()]


def _value(column: str, value: Any, names: list[str]) -> Any:
    if column == "image":
        from PIL import Image  # missing without the libraries of studies

        with Image.open(io.BytesIO(value)) as image:
            return f"{image.width} x {image.height} {image.mode}"
    return names[value] if column == "label" and isinstance(value, int) else value
