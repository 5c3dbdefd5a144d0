"""The format's choices, measured: row groups, encoding, compression and type of the logits.

    python -m benchmarks.cache_format

Writes docs/measured/cache-format-choices.md and benchmarks/results/cache-format.json. Everything happens in
memory, since the disk's speed would blur the differences.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cache.measuring import Logits, peaky_logits, row_hashes
from benchmarks.keeping import facts
from benchmarks.markdown import number, table
from kdcache.logits.format import Dtype, encode_shard, rows_per_group
from kdcache.system.files import write_atomically, write_json
from stages import stage_errors

log = logging.getLogger(__name__)

JSON, PAGE = Path("benchmarks/results/cache-format.json"), Path("docs/measured/cache-format-choices.md")
CLASSES = (3, 100, 1000)
DTYPES: tuple[Dtype, ...] = ("float32", "float16")
COMPRESSIONS: tuple[tuple[str, int | None], ...] = (
    ("none", None),
    ("snappy", None),
    ("zstd", 1),
    ("zstd", 3),
)
MB = 1e6


@dataclass(frozen=True)
class Choice:
    """How the logits of a shard are stored."""

    group_rows: int
    split_bytes: bool = True  # BYTE_STREAM_SPLIT, else PLAIN
    compression: str = "zstd"
    level: int | None = 1
    dtype: Dtype = "float32"


@dataclass(frozen=True)
class Found:
    """What was measured of a choice. MB always count rows with float32 logits, so that choices can be compared."""

    classes: int
    choice: Choice
    bytes_per_row: float
    write_mb_s: float
    read_mb_s: float
    group_mb: float  # memory of a row group
    chosen: bool  # whether the format uses it


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    pa.set_cpu_count(1)
    choices, errors = [], {}
    for classes in CLASSES:
        log.info("K = %d ...", classes)
        logits = peaky_logits(max(int(args.megabytes * MB) // (16 + 4 * classes), 64), classes)
        errors[classes] = float(np.abs(logits - logits.astype(np.float16)).max())
        choices += measure(logits, args.repeats)
    run = {
        **facts(("pyarrow", "numpy")),
        "options": {"repeats": args.repeats, "megabytes": args.megabytes},
        "largest_float16_error": errors,
        "choices": [asdict(choice) for choice in choices],
    }
    for path, content in ((args.json, None), (args.page, page(run, choices))):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, run) if content is None else write_atomically(path, content.encode("utf-8"))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cache_format",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=32, help="of rows for each K (default: 32)")
    parser.add_argument("--json", type=Path, default=JSON)
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(arguments)
    if args.repeats < 1 or args.megabytes <= 0:
        parser.error("--repeats must be 1 or more, --megabytes above 0")
    return args


def choices(classes: int) -> list[Choice]:
    """Every combination of encodings, compressions and types; other row groups only for the format's own choice."""
    chosen = Choice(rows_per_group(classes))
    crossed = [
        Choice(rows_per_group(classes, dtype), split_bytes, compression, level, dtype)
        for dtype in DTYPES
        for split_bytes in (True, False)
        for compression, level in COMPRESSIONS
    ]
    sizes = [replace(chosen, group_rows=max(chosen.group_rows * factor // 16, 1)) for factor in (1, 4, 64)]
    return crossed + sizes


def measure(logits: Logits, repeats: int) -> list[Found]:
    """Measure every choice on the same logits [N, K], in turn, `repeats` times."""
    rows, classes = logits.shape
    tables = {dtype: as_table(logits.astype(dtype)) for dtype in DTYPES}
    every = choices(classes)
    data = {choice: encode(tables[choice.dtype], choice) for choice in every}
    seconds: dict[tuple[str, Choice], list[float]] = {(mode, choice): [] for choice in every for mode in "wr"}
    for _ in range(repeats):
        for choice in every:
            seconds["w", choice].append(_timed(encode, tables[choice.dtype], choice))
            seconds["r", choice].append(_timed(decode, data[choice]))
    megabytes = rows * (16 + 4 * classes) / MB
    return [
        Found(
            classes,
            choice,
            bytes_per_row=len(data[choice]) / rows,
            write_mb_s=megabytes / statistics.median(seconds["w", choice]),
            read_mb_s=megabytes / statistics.median(seconds["r", choice]),
            group_mb=choice.group_rows * (16 + classes * np.dtype(choice.dtype).itemsize) / MB,
            chosen=choice == Choice(rows_per_group(classes, choice.dtype), dtype=choice.dtype),
        )
        for choice in every
    ]


def as_table(logits: Any) -> pa.Table:
    """The rows as the writer gives them to pyarrow, with the footer."""
    shard = encode_shard(
        np.arange(len(logits), dtype=np.int64), row_hashes(len(logits)), logits, {"shard": 0}
    )
    return pq.read_table(pa.BufferReader(shard)).combine_chunks()


def encode(rows: pa.Table, choice: Choice) -> bytes:
    """A shard's bytes; for the format's own choice they equal those of `encode_shard`."""
    out = pa.BufferOutputStream()
    pq.write_table(
        rows,
        out,
        row_group_size=choice.group_rows,
        compression=choice.compression,
        compression_level=choice.level,
        use_dictionary=False,
        write_statistics=False,
        column_encoding={
            "id": "DELTA_BINARY_PACKED",
            "row_hash": "PLAIN",
            "logits.list.element": "BYTE_STREAM_SPLIT" if choice.split_bytes else "PLAIN",
        },
    )
    return bytes(out.getvalue())


def decode(data: bytes) -> int:
    """Read every row group into float32 arrays, as the reader does; returns the number of rows."""
    rows = 0
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        for group in range(file.num_row_groups):
            read = file.read_row_group(group, use_threads=False)
            values = read["logits"].combine_chunks().flatten().to_numpy()
            rows += len(values.astype(np.float32, copy=False)) and read.num_rows
    return rows


def _timed(work: Any, *arguments: Any) -> float:
    gc.collect()
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def page(run: dict[str, Any], choices: Sequence[Found]) -> str:
    """The page, in Markdown; the format's own choices are bold."""
    versions = ", ".join(f"{name} {value}" for name, value in run["versions"].items())
    parts = [
        "# The format's choices, measured",
        f"Made by `python -m benchmarks.cache_format` on {run['machine']}, {run['date']}; {versions}. Medians of "
        f"{run['options']['repeats']} rounds over {run['options']['megabytes']:g} MB of rows, in memory, on one "
        "thread. The logits are normal, with one class far above the others. MB (10^6 bytes) always count rows "
        "with an id, a hash and float32 logits, whatever type is stored. The format's own choices are bold.",
    ]
    for classes in CLASSES:
        error = run["largest_float16_error"][classes]
        parts.append(
            f"## K = {classes}\n\n{_table([choice for choice in choices if choice.classes == classes])}"
        )
        parts.append(f"float16 changes a logit by at most {number(error)} here.")
    return "\n\n".join(parts) + "\n"


def _table(choices: Sequence[Found]) -> str:
    header = ["type", "encoding", "compression", "rows of a group", "MB of a group"]
    header += ["bytes per row", "write MB/s", "read MB/s"]
    return table(header, [_cells(choice) for choice in choices], right=range(3, 8))


def _cells(found: Found) -> list[str]:
    choice = found.choice
    cells = [
        choice.dtype,
        "byte-stream-split" if choice.split_bytes else "plain",
        choice.compression if choice.level is None else f"{choice.compression} {choice.level}",
        f"{choice.group_rows:,}",
        number(found.group_mb),
        f"{found.bytes_per_row:,.1f}",
        number(found.write_mb_s),
        number(found.read_mb_s),
    ]
    return [f"**{cell}**" for cell in cells] if found.chosen else cells


if __name__ == "__main__":
    main()
