"""Odd and damaged token caches: their manifests and shards, of each estimator."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kdcache.cli import tokens as commands
from kdcache.logits.parquet import sha256
from kdcache.logits.tokens import RS, Full, Threshold, TokenCache, TopK, write_token_logits
from tests.fuzz import caches
from tests.fuzz.caches import FINGERPRINTS, SHARD, edit, folder, sealed, written
from tests.fuzz.harness import NUMBERS, Reader, damaged

VOCABULARY = 40
ESTIMATORS = (Threshold(1 / 12, draws=2), RS(5), TopK(4), Full())


def teacher(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Logits that follow from the tokens so far."""
    table = torch.randn(97, VOCABULARY, generator=torch.Generator().manual_seed(0))
    return 2.5 * table[(input_ids.cumsum(1) * 31) % 97]


@cache
def whole(number: int) -> dict[str, bytes]:
    """The files of a cache with one of the estimators: two shards of train, and one of validation."""
    rng = np.random.default_rng(0)
    splits = {
        name: [{"input_ids": rng.integers(0, VOCABULARY, rng.integers(2, 9)).tolist()} for _ in range(rows)]
        for name, rows in (("train", 12), ("validation", 5))
    }
    with folder() as path:
        write_token_logits(
            teacher, splits, path, ESTIMATORS[number], fingerprints=FINGERPRINTS, rows_per_shard=8
        )
        files = [file for file in path.rglob("*") if file.is_file()]
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def read_cache(files: dict[str, bytes]) -> None:
    """Open a cache of these files and read all of it in every possible way."""
    with folder() as path:
        caches.put(path, files)
        cache = TokenCache(path)
        cache.info()
        for split in cache.splits:
            for batch in cache.stream(split, 5):
                assert torch.isfinite(batch.dense()).all()
            rows = cache.split(split)
            cache.batch(rows.ids, split, epoch=1)
            commands.head_of(cache, split, 3)
            commands.diff(cache, cache, split)
        cache.verify("full")


# A case begins with its estimator's number.


def manifest_case(rng: Random) -> bytes:
    number = rng.randrange(len(ESTIMATORS))
    content = whole(number)["manifest.json"]
    if rng.random() < 0.3:
        return bytes([number]) + damaged(rng, content)
    manifest = json.loads(content)
    if rng.random() < 0.2:
        manifest["versions"] = {f"library {k}": str(rng.random()) for k in range(rng.randint(0, 20))}
        return bytes([number]) + sealed(manifest)
    for _ in range(rng.choice((1, 1, 2, 5))):
        edit(rng, rng.choice([manifest, *(part for part in manifest.values() if isinstance(part, dict))]))
    return bytes([number]) + sealed(manifest)


def read_manifest(data: bytes) -> None:
    read_cache({**whole(data[0]), "manifest.json": data[1:]})


def shard_case(rng: Random) -> bytes:
    number = rng.randrange(len(ESTIMATORS))
    data = whole(number)[SHARD]
    if rng.random() < 0.3:
        return bytes([number]) + damaged(rng, data, [whole(number)["train/part-00001.parquet"]])
    table = pq.read_table(pa.BufferReader(data))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        table = rng.choice(TABLE_CHANGES)(rng, table)
    return bytes([number]) + written(rng, table)


def read_shard(data: bytes) -> None:
    """Read the shard in a cache whose manifest has its size and checksum, so that only its content can be wrong."""
    files, shard = whole(data[0]), data[1:]
    manifest = json.loads(files["manifest.json"])
    said = manifest["splits"]["train"]["shards"][0]
    said["bytes"], said["sha256"] = max(len(shard), 1), sha256(shard)
    read_cache({**files, SHARD: shard, "manifest.json": sealed(manifest)})


def with_an_odd_list(rng: Random, table: pa.Table) -> pa.Table:
    """Give some rows of a column of lists other values, or more or fewer of them."""
    lists = [field for field in table.schema if pa.types.is_list(field.type)]
    if not lists:
        return table
    field = rng.choice(lists)
    rows = table[field.name].to_pylist()
    for _ in range(rng.choice((1, 1, 5))):
        if rows:
            place = rng.randrange(len(rows))
            rows[place] = _odd_list(rng, list(rows[place]), _odd_element(field.type.value_type))
    try:
        made = pa.array(rows, field.type)
    except (pa.ArrowException, OverflowError, TypeError):  # a number that the type does not hold
        return table
    return table.set_column(table.schema.get_field_index(field.name), field, made)


def _odd_list(rng: Random, row: list[Any], element: Callable[[Random], Any]) -> list[Any]:
    kind, place = rng.randrange(5), rng.randint(0, max(len(row) - 1, 0))
    if kind == 0:
        return []
    if kind == 1:
        return row * rng.choice((2, 2, 300))
    if kind == 2:
        return row[:place]
    if kind == 3:
        return [*row, element(rng)]
    return [*row[:place], element(rng), *row[place + 1 :]]


def _odd_element(kind: pa.DataType) -> Callable[[Random], Any]:
    if pa.types.is_boolean(kind):
        return lambda rng: rng.random() < 0.5
    if pa.types.is_floating(kind):
        return lambda rng: rng.choice((0.0, -1.5, 1.0, float("nan"), float("-inf"), -1e30, 3e38))
    if pa.types.is_integer(kind):
        return lambda rng: rng.choice((rng.randrange(VOCABULARY), rng.choice(NUMBERS))) % 2**kind.bit_width
    return lambda rng: "odd"  # the column has another type already


def with_another_type(rng: Random, table: pa.Table) -> pa.Table:
    place = rng.randrange(table.num_columns)
    made = rng.choice((
        pa.array(["x"] * table.num_rows), pa.nulls(table.num_rows), pa.array([[1]] * table.num_rows),
        pa.array([[[1]]] * table.num_rows), pa.array(range(table.num_rows), pa.int64()),
    ))  # fmt: skip
    return table.set_column(place, table.schema.names[place], made)


TABLE_CHANGES: tuple[Callable[[Random, pa.Table], pa.Table], ...] = (
    *[with_an_odd_list] * 6,
    caches.with_values("id", caches.odd_ids),
    with_another_type,
    *caches.TABLE_CHANGES[4:],
)
READERS = (
    Reader("token manifest", manifest_case, read_manifest),
    Reader("token shard", shard_case, read_shard),
)
