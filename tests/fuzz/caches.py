"""Odd and damaged manifests, shards and teachers' outputs: what the fuzz harness gives the logit cache."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kdcache.hashing import fingerprint
from kdcache.logits import Fingerprints, LogitCache, LogitWriter, write_logits
from kdcache.logits.parquet import METADATA_KEY, sha256
from tests.fuzz.harness import NUMBERS, Reader, damaged

FINGERPRINTS = Fingerprints(data="d", weights="w", preprocessing="p", code="c")
SHARD = "train/part-00000.parquet"
ROWS, CLASSES = 12, 3


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kdcache-fuzz-") as path:
        yield Path(path)


@cache
def whole() -> dict[str, bytes]:
    """The files of a cache with two shards of train and one of validation."""
    rng = np.random.default_rng(0)
    with folder() as path:
        with LogitWriter(
            path, classes=CLASSES, label_names=["a", "b", "c"], fingerprints=FINGERPRINTS, rows_per_shard=8
        ) as writer:
            for split, rows in (("train", ROWS), ("validation", 5)):
                hashes = rng.integers(0, 2**63, rows).astype(np.uint64)
                writer.write(
                    split, np.arange(rows), hashes, rng.normal(size=(rows, CLASSES)).astype(np.float32)
                )
            writer.finish(scores={"train": {"accuracy": 0.5}})
        files = [file for file in path.rglob("*") if file.is_file()]
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def put(path: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder, by their names."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


def read_cache(files: dict[str, bytes]) -> None:
    """Open a cache of these files and read all of it in every possible way."""
    with folder() as path:
        put(path, files)
        cache = LogitCache(path)
        cache.info()
        for split in cache.splits:
            for batch in cache.stream(split, 5):
                assert np.isfinite(batch.logits).all()
            cache.split(split)
        cache.verify("full")


# ---- manifests ----


def sealed(manifest: dict[str, Any]) -> bytes:
    """A manifest with the right checksum, whatever its content."""
    manifest = {key: value for key, value in manifest.items() if key != "checksum"}
    return json.dumps({**manifest, "checksum": fingerprint.of_json(manifest)}).encode()


def odd_value(rng: Random) -> Any:
    return rng.choice(
        (
            None,
            True,
            "",
            "x" * 5000,
            "../train",
            [],
            {},
            [[]] * 3000,
            0.5,
            -1,
            rng.choice(NUMBERS),
            rng.randint(0, 20),
            {"x" * 100: [1, 2, {"rows": 3}]},
        )
    )


def edit(rng: Random, node: Any) -> None:
    """Change, add, remove or repeat something somewhere in the object."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and rng.random() < 0.7:
            node = node[key]
            continue
        kind = rng.randrange(5)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[rng.choice(("extra", "rows", "file", ""))] = odd_value(rng)
        elif kind == 2 and isinstance(node, list):
            node.extend([node[key]] * rng.choice((1, 1000)))
        elif kind == 3 and type(node[key]) is int:
            node[key] += rng.choice((-1, 1, 7, 2**40))
        else:
            node[key] = odd_value(rng)
        return


def manifest_case(rng: Random) -> bytes:
    text = whole()["manifest.json"]
    if rng.random() < 0.3:
        return damaged(rng, text)
    manifest = json.loads(text)
    if rng.random() < 0.15:  # parts that are outside of the identity may have any value of their type
        manifest["versions"] = {f"library {k}": str(rng.random()) for k in range(rng.randint(0, 20))}
        manifest["scores"] = {"validation": {"accuracy": rng.random(), "nll": rng.uniform(-1e300, 1e300)}}
        return sealed(manifest)
    for _ in range(rng.choice((1, 1, 2, 5))):
        edit(rng, manifest)
    return sealed(manifest)


def read_manifest(data: bytes) -> None:
    read_cache({**whole(), "manifest.json": data})


# ---- shards ----


def shard_case(rng: Random) -> bytes:
    data = whole()[SHARD]
    if rng.random() < 0.4:
        return damaged(rng, data, [whole()["train/part-00001.parquet"]])
    table = pq.read_table(pa.BufferReader(data))
    for _ in range(rng.choice((0, 1, 1, 2))):
        table = rng.choice(TABLE_CHANGES)(rng, table)
    return written(rng, table)


def written(rng: Random, table: pa.Table) -> bytes:
    """The table as Parquet, in one of the ways in which other programs write it."""
    out = pa.BufferOutputStream()
    pq.write_table(
        table,
        out,
        row_group_size=rng.choice((1, 3, 8, 1000)),
        compression=rng.choice(("zstd", "none", "snappy", "gzip")),
        use_dictionary=rng.random() < 0.5,
        data_page_size=rng.choice((16, 1 << 20)),
        version=rng.choice(("1.0", "2.6")),
    )
    return bytes(out.getvalue())


def with_values(
    name: str, values: Callable[[Random, int], pa.Array]
) -> Callable[[Random, pa.Table], pa.Table]:
    def change(rng: Random, table: pa.Table) -> pa.Table:
        place = table.schema.names.index(name) if name in table.schema.names else -1
        if place < 0:
            return table
        made = values(rng, table.num_rows)
        field = table.schema.field(place)
        kept = made.type == field.type and (made.null_count == 0 or field.nullable)
        return table.set_column(
            place, field if kept else field.with_type(made.type).with_nullable(True), made
        )

    return change


def odd_ids(rng: Random, count: int) -> pa.Array:
    ids = [rng.choice((0, -1, 3, 2**62, 2**63 - 1, k, k + 8)) for k in range(count)]
    return pa.array(ids, pa.int64()) if rng.random() < 0.7 else pa.array([None, *ids[1:]][:count], pa.int64())


def odd_logits(rng: Random, count: int) -> pa.Array:
    width = rng.choice((CLASSES, CLASSES, CLASSES, 1, 7))
    kind = rng.choice((pa.float32(), pa.float32(), pa.float64(), pa.float16()))
    values = [rng.choice((0.0, 1.5, float("nan"), float("inf"), 1e30, -1e-30)) for _ in range(count * width)]
    flat = pa.array(np.asarray(values).astype(kind.to_pandas_dtype()), kind)
    return pa.FixedSizeListArray.from_arrays(flat, width)


def without_a_column(rng: Random, table: pa.Table) -> pa.Table:
    return table.drop_columns([rng.choice(table.schema.names)]) if len(table.schema) > 1 else table


def with_odd_metadata(rng: Random, table: pa.Table) -> pa.Table:
    text = (table.schema.metadata or {}).get(METADATA_KEY, b"{}")
    return table.replace_schema_metadata({METADATA_KEY: damaged(rng, text)})


TABLE_CHANGES: tuple[Callable[[Random, pa.Table], pa.Table], ...] = (
    with_values("id", odd_ids),
    with_values(
        "row_hash", lambda rng, count: pa.array([rng.choice(NUMBERS) for _ in range(count)], pa.uint64())
    ),
    with_values("row_hash", lambda rng, count: pa.array(["x"] * count)),
    with_values("logits", odd_logits),
    without_a_column,
    with_odd_metadata,
    lambda rng, table: table.slice(0, rng.randint(0, table.num_rows)),
    lambda rng, table: pa.concat_tables([table] * rng.choice((2, 300 if table.num_rows <= 8 else 1))),
    lambda rng, table: table.take(pa.array(rng.sample(range(table.num_rows), table.num_rows), pa.int64())),
    lambda rng, table: table.append_column("more", pa.array([1] * table.num_rows)),
)


def read_shard(data: bytes) -> None:
    """Read the shard in a cache whose manifest has its size and checksum, so that only its content can be wrong."""
    manifest = json.loads(whole()["manifest.json"])
    shard = manifest["splits"]["train"]["shards"][0]
    shard["bytes"], shard["sha256"] = max(len(data), 1), sha256(data)
    read_cache({**whole(), SHARD: data, "manifest.json": sealed(manifest)})


# ---- what a teacher returns, and for which rows ----


def teacher_case(rng: Random) -> bytes:
    return rng.randbytes(8)


class Answer:
    """What a model of transformers returns: an object with logits."""

    def __init__(self, logits: Any) -> None:
        self.logits = logits


def odd_output(rng: Random, rows: int) -> Any:
    """A model's output: mostly logits [rows, K] in one of the ways that models return them, or something else."""
    shapes = [(rows, 2)] * 6 + [(rows,), (rows, 1, 2), (), (0, 2), (rows + 1, 2), (rows, 0), (rows, 3)]
    values = np.asarray(np.random.default_rng(rng.randrange(1000)).normal(size=rng.choice(shapes)))
    if rng.random() < 0.1 and values.size:
        values.flat[0] = rng.choice((float("nan"), float("inf"), 1e300))
    ways: list[Callable[[], Any]] = [
        lambda: torch.from_numpy(values),
        lambda: torch.from_numpy(values).to(rng.choice(DTYPES)),
        lambda: torch.from_numpy(values).float().requires_grad_(),
        lambda: torch.from_numpy(values).to_sparse(),
        lambda: torch.empty(values.shape, device="meta"),
        lambda: values.astype(
            rng.choice((np.float32, np.float16, np.int64, np.complex64, object, str, bool))
        ),
        lambda: values.tolist(),
    ]
    made = rng.choice(ways[:3] if rng.random() < 0.5 else ways)()
    odd = (None, "logits", 5, (made, made), [made], {}, {"scores": made}, iter([made]), object(), b"")
    if rng.random() < 0.15:
        return rng.choice(odd)
    return rng.choice((made, made, Answer(made), {"logits": made}))


DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int32,
    torch.bool,
    torch.complex64,
)
ODD_ROWS = (
    {"text": "a", "label": 2**63},
    {"text": None, "label": None},
    {"text": "\ud83d", "label": 1},
    {"text": ["a", {"b": 1}], "label": [1, 2]},
    {"text": {1: 2}, "label": 0},
    {"label": 0},
    ("a", 1),
    "a",
    None,
    5,
)


def read_teacher(data: bytes) -> None:
    """Cache a teacher's logits on a few rows, and read them."""
    rng = Random(int.from_bytes(data, "little"))
    rows: list[Any] = [{"text": f"row {k}", "label": k % 2} for k in range(rng.randint(0, 6) or 1)]
    if rng.random() < 0.15:
        rows[rng.randrange(len(rows))] = rng.choice(ODD_ROWS)
    steady = rng.random() < 0.6  # one kind of answer for all batches
    seed = rng.randrange(10**6)

    def model(batch: list[Any]) -> Any:
        return odd_output(Random(seed) if steady else rng, len(batch))

    with folder() as path:
        write_logits(
            model,
            rows,
            path / "cache",
            collate=list,
            batch_size=rng.choice((1, 2, 8)),
            columns=rng.choice((None, ["text"], ["text"])),
            label=rng.choice(("label", None)),
            fingerprints=FINGERPRINTS,
            lengths=rng.choice((None, None, None, list(range(len(rows))), [1], ["x"] * len(rows))),
            label_names=rng.choice(((), (), ("a", "b"), ("a",), ("a", "a"))),
            dtype=rng.choice(("float32", "float32", "float16")),
            rows_per_shard=rng.choice((1, 3, 100)),
        )
        cache = LogitCache(path / "cache")
        if cache.verify("full").rows != len(rows):
            raise AssertionError("rows are missing")


READERS = (
    Reader("manifest", manifest_case, read_manifest),
    Reader("shard", shard_case, read_shard),
    Reader("teacher", teacher_case, read_teacher),
)
