"""Real data sets, read as other readers do: Parquet and CSV by DuckDB, JSON Lines by json, images by pypng.

KDCACHE_REAL_DATA names a folder with Parquet files of labelled texts and of images, as deep as one likes. Odd and
made-up files are compared in the tests of each reader.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import png
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.tasks.image_decoding import decode
from kdcache.tasks.sources import load_source
from tests.tasks.files import read, task

MOST = 5000  # rows of a file that is written again


def tables(kind: str) -> list[tuple[Path, list[str], str | None]]:
    """Files with columns of a kind (texts, images), their names, and the label's."""
    folder = Path(os.environ.get("KDCACHE_REAL_DATA", "not-set"))
    found = []
    for path in sorted(folder.rglob("*.parquet")):
        schema = pq.read_schema(path)
        columns = [field.name for field in schema if pa.types.is_string(field.type)]
        images = [field.name for field in schema if pa.types.is_struct(field.type)]
        label = next((field.name for field in schema if field.name.endswith("label")), None)
        chosen = {"texts": columns[:2], "images": images[:1]}[kind]
        if chosen and (kind == "images" or label):
            found.append((path, chosen, label))
    if not found:
        pytest.skip(
            f"no Parquet files of {kind} in {folder} (KDCACHE_REAL_DATA names a folder that may have some)"
        )
    return found


def rows_of(
    path: Path, columns: list[str], label: str | None, metric: str = "accuracy"
) -> list[tuple[Any, ...]]:
    """The rows as kdcache reads them: texts, and the label."""
    table = read(load_source(task(path, path, text=columns, label=label, metrics=[metric])))
    labels = table.pop("label")
    return list(zip(*table.values(), labels, strict=True))


def metric_of(path: Path, label: str | None) -> str:
    return "accuracy" if pa.types.is_integer(pq.read_schema(path).field(label).type) else "pearson"


def test_parquet() -> None:
    for path, columns, label in tables("texts"):
        names = ", ".join(f'"{name}"' for name in [*columns, label])
        expected = duckdb.sql(f"select {names} from read_parquet('{path}')").fetchall()
        assert rows_of(path, columns, label, metric_of(path, label)) == expected, path


def test_csv(tmp_path: Path) -> None:
    for path, columns, label in tables("texts"):
        rows = pq.read_table(path, columns=[*columns, label]).slice(0, MOST).to_pylist()
        copy = tmp_path / "copy.csv"
        with copy.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*columns, label])
            writer.writeheader()
            writer.writerows(rows)
        options = "header = true, all_varchar = true, quote = '\"', escape = '\"', delim = ',', nullstr = ''"
        expected = duckdb.sql(
            f"select * from read_csv('{copy}', {options}, force_not_null = {columns})"
        ).fetchall()
        assert rows_of(copy, columns, label) == expected, path


def test_json_lines(tmp_path: Path) -> None:
    for path, columns, label in tables("texts"):
        rows = pq.read_table(path, columns=[*columns, label]).slice(0, MOST).to_pylist()
        copy = tmp_path / "copy.jsonl"
        plain = len(path.name) % 2 == 0
        copy.write_text("\n".join(json.dumps(row, ensure_ascii=plain) for row in rows), encoding="utf-8")
        lines = [json.loads(line) for line in copy.read_text(encoding="utf-8").split("\n")]
        expected = [tuple(line[name] for name in [*columns, label]) for line in lines]
        assert rows_of(copy, columns, label, metric_of(path, label)) == expected, path


def test_images() -> None:
    for path, (column,), _ in tables("images"):
        for image in pq.read_table(path, columns=[column]).column(column).to_pylist()[:500]:
            _, _, rows, info = png.Reader(bytes=image["bytes"]).asRGB8()
            expected = np.array(list(rows), np.uint8).reshape(info["size"][1], info["size"][0], 3)
            assert np.array_equal(decode(image["bytes"]), expected), path
