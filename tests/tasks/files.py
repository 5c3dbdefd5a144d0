"""Tasks made of files, and the rows that are read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.errors import TaskError
from kdcache.study import Task
from kdcache.tasks.rows import Loaded
from kdcache.tasks.sources import load_source

ROWS = {"text": ["good film", "bad film", "fine, really"], "label": [1, 0, 1]}


def task(train: Any, validation: Any, **changes: Any) -> Task:
    files = {
        "train": [str(path) for path in train] if isinstance(train, list) else str(train),
        "validation": str(validation),
    }
    given = {"source": {"files": files}, "text": ["text"], "metrics": ["accuracy"], "max_length": 8}
    return Task.model_validate({**given, **changes})


def parquet(path: Path, columns: dict[str, Any], names: list[str] | None = None) -> Path:
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(loaded: Loaded, split: str = "train") -> dict[str, list[Any]]:
    rows = loaded.splits[split]
    table = pa.concat_tables(rows.batches())
    return {**table.to_pydict(), "label": rows.label.to_pylist()}


def refusal(message: str, *args: Any, **changes: Any) -> None:
    declared = task(*args, **changes)
    with pytest.raises(TaskError, match=message):
        read(load_source(declared))
