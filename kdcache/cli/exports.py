"""Write the files of `kdcache export`: CSV, JSON lines, one Parquet file, or a Hugging Face data set's folder."""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import CacheError
from kdcache.logits import LogitCache, schema
from kdcache.system.files import write_atomically

EXPORT_ROWS = 65536  # rows turned into text at a time


def write_export(cache: LogitCache, splits: list[str], out: str, form: str | None, task: Path | None) -> str:
    """Write these splits to `out`. Return the format: `form`, or by default the format that the name `out` says.

    Args:
        out: a file, which is replaced if it exists; for a data set a new folder, marked by a final `/` (or by `form`).
        task: a prepared task whose columns are added to a data set.

    Raises:
        CacheError: there is no such format, the format cannot have the task's columns, or the folder exists already.
        KdcacheError: the file cannot be written.
    """
    cache.require_plain("an export")
    chosen = form or ("dataset" if out.endswith("/") else Path(out).suffix.removeprefix("."))
    if chosen == "dataset":
        _write_dataset(cache, splits, Path(out), task)
    elif chosen not in _WRITERS:
        raise CacheError(
            f"{out}: expected a name ending in {', '.join(f'.{name}' for name in _WRITERS)}, or / for a data set's "
            f"folder; found {Path(out).suffix!r}"
        )
    elif task is not None:
        raise CacheError(
            f"{out}: only a data set gets the task's columns; leave out --task, or use --format dataset"
        )
    else:
        write_atomically(Path(out), lambda path: _WRITERS[chosen](cache, splits, path))
    return chosen


# ---- files ----


def _blocks(cache: LogitCache, split: str) -> Iterator[tuple[list[int], list[str], np.ndarray]]:
    part = cache.split(split)
    for start in range(0, len(part.ids), EXPORT_ROWS):
        rows = slice(start, start + EXPORT_ROWS)
        hashes = [f"{value:016x}" for value in part.row_hashes[rows].tolist()]
        yield part.ids[rows].tolist(), hashes, part.logits[rows]


def _write_csv(cache: LogitCache, splits: list[str], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["split", "id", "row_hash", *(f"logit_{k}" for k in range(cache.manifest.classes))])
        for split in splits:
            for ids, hashes, logits in _blocks(cache, split):
                # NumPy prints the fewest digits that read back as the same float32
                values = logits.astype(str).tolist()
                writer.writerows([split, *row[:2], *row[2]] for row in zip(ids, hashes, values, strict=True))


def _write_jsonl(cache: LogitCache, splits: list[str], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for split in splits:
            for ids, hashes, logits in _blocks(cache, split):
                for row, digest, values in zip(ids, hashes, logits.tolist(), strict=True):
                    record = {"split": split, "id": row, "row_hash": digest, "logits": values}
                    file.write(json.dumps(record) + "\n")


def _write_parquet(cache: LogitCache, splits: list[str], path: Path) -> None:
    fields = schema(cache.manifest.classes)
    with pq.ParquetWriter(path, fields.insert(0, pa.field("split", pa.string(), nullable=False))) as writer:
        for split in splits:
            table = _logit_table(cache, split)
            names = pa.repeat(pa.scalar(split), table.num_rows)
            writer.write_table(pa.Table.from_arrays([names, *table.columns], schema=writer.schema))


def _logit_table(cache: LogitCache, split: str) -> pa.Table:
    """The split as an Arrow table: id, row_hash and logits, sorted by id."""
    part, fields = cache.split(split), schema(cache.manifest.classes)
    logits = pa.FixedSizeListArray.from_arrays(part.logits.reshape(-1), type=fields.field("logits").type)
    return pa.Table.from_arrays([pa.array(part.ids), pa.array(part.row_hashes), logits], schema=fields)


_WRITERS: dict[str, Callable[[LogitCache, list[str], Path], None]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}


# ---- a data set's folder ----


def _write_dataset(cache: LogitCache, splits: list[str], folder: Path, task: Path | None) -> None:
    """Write a DatasetDict: id, row_hash, the task's columns (with features such as ClassLabel, Image) and logits."""
    import datasets

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CacheError(f"{folder}: is there already; choose another folder, or delete it first")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    exported = datasets.DatasetDict({split: _dataset(cache, split, task) for split in splits})
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent
        ) as temporary:
            finished = Path(temporary, folder.name)
            exported.save_to_disk(finished)
            os.replace(finished, folder)  # so the folder is whole or absent
    except OSError as error:
        raise CacheError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _dataset(cache: LogitCache, split: str, task: Path | None) -> Any:
    import datasets

    table = _logit_table(cache, split)
    features: dict[str, Any] = {
        "id": datasets.Value("int64"),
        "row_hash": datasets.Value("uint64"),
        "logits": datasets.List(datasets.Value("float32"), length=cache.manifest.classes),
    }
    if task is not None:
        from kdcache.cli.analysis import task_rows

        rows = task_rows(cache, split, task).drop_columns(["id", "row_hash"])
        for name in rows.column_names:
            column, features[name] = _feature(cache, name, rows[name].combine_chunks())
            table = table.append_column(name, column)
    schema = datasets.Features(features)
    return datasets.Dataset(table.cast(schema.arrow_schema), datasets.DatasetInfo(features=schema))


def _feature(cache: LogitCache, name: str, column: pa.Array) -> tuple[pa.Array, Any]:
    """A task's column as the data set stores it, and its feature."""
    import datasets

    if name == "image":
        paths = pa.nulls(len(column), pa.string())
        return pa.StructArray.from_arrays([column, paths], names=["bytes", "path"]), datasets.Image()
    if name == "label" and cache.manifest.label_names:
        return column, datasets.ClassLabel(names=cache.manifest.label_names)
    return column, datasets.Value(str(column.type))
