"""`kdcache check | info | verify | head | export`: what people ask a study file or a logit cache.

Every KdcacheError prints as one message on standard error and ends with exit code 1, without a traceback.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdcache.errors import CacheError, KdcacheError
from kdcache.files import write_atomically
from kdcache.logits import LogitCache, schema
from kdcache.params import Study, load_study

EXPORT_ROWS = 65536  # rows turned into text at a time

app = typer.Typer(
    name="kdcache", help="Look at studies and logit caches.", no_args_is_help=True, add_completion=False
)
Cache = Annotated[Path, typer.Argument(help="A logit cache's folder (it holds manifest.json).")]
Split = Annotated[str | None, typer.Option(help="Only this split; default: all.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; never returns normally (SystemExit carries the exit code)."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="kdcache")
    except KdcacheError as error:
        print(f"kdcache: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@app.command()
def check(params: Annotated[Path, typer.Argument(help="The study file.")] = Path("params.yaml")) -> None:
    """Check a study file: all its mistakes at once, before anything runs."""
    study = load_study(params)
    typer.echo(f"{params}: no mistakes; {_study_size(study)}")


@app.command()
def info(cache: Cache) -> None:
    """What a logit cache holds, what it was computed from and what that cost."""
    table = Table("key", "value", show_header=False)
    for key, value in LogitCache(cache).info().items():
        table.add_row(escape(key.replace("_", " ")), escape(_text(value)))
    _console().print(table)


@app.command()
def verify(
    cache: Cache,
    quick: Annotated[bool, typer.Option(help="Only files, sizes and footers, not every byte.")] = False,
) -> None:
    """Check a logit cache for damage: every checksum and every value, unless --quick."""
    found = LogitCache(cache).verify("quick" if quick else "full")
    typer.echo(
        f"{cache}: whole ({found.level}: {found.shards} shards, {found.rows} rows, {found.bytes} bytes)"
    )


@app.command()
def head(
    cache: Cache,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows to show.")] = 10,
    split: Split = None,
) -> None:
    """The first rows by id, with the logits of up to eight classes."""
    opened = LogitCache(cache)
    for name in _splits(opened, split):
        part = opened.split(name)
        shown = min(opened.manifest.classes, 8)
        table = Table(title=escape(_head_title(opened, name, shown)))
        for column in ("id", "row hash", *_class_names(opened)[:shown]):
            table.add_column(escape(column), justify="right")
        for index in range(min(rows, len(part.ids))):
            logits = (f"{value:.4f}" for value in part.logits[index, :shown])
            table.add_row(str(part.ids[index]), f"{part.row_hashes[index]:016x}", *logits)
        _console().print(table)


@app.command()
def export(
    cache: Cache,
    out: Annotated[Path, typer.Argument(help="A file ending in .csv, .jsonl or .parquet.")],
    split: Split = None,
) -> None:
    """Write a logit cache to one file, its rows sorted by split and id.

    In CSV and JSON lines a row hash is 16 hexadecimal digits (many readers lose 64-bit integers).
    """
    writers: dict[str, Callable[[LogitCache, list[str], Path], None]] = {
        ".csv": _write_csv,
        ".jsonl": _write_jsonl,
        ".parquet": _write_parquet,
    }
    if out.suffix not in writers:
        raise CacheError(f"{out}: expected a name ending in {', '.join(writers)}, found {out.suffix!r}")
    opened = LogitCache(cache)
    names = _splits(opened, split)
    write_atomically(out, lambda path: writers[out.suffix](opened, names, path))
    typer.echo(f"{out}: {sum(opened.manifest.splits[name].rows for name in names)} rows")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160)


def _study_size(study: Study) -> str:
    configurations = len(list(study.configurations()))
    trials = configurations * len(study.seeds)
    return (
        f"{len(study.tasks)} tasks, {len(study.teachers)} teachers, {len(study.students)} students, "
        f"{configurations} configurations x {len(study.seeds)} seeds = {trials} trials"
    )


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _splits(cache: LogitCache, split: str | None) -> list[str]:
    if split is None:
        return cache.splits
    if split not in cache.splits:
        raise CacheError(
            f"{cache.path}: no split {split!r} in this cache (there are: {', '.join(cache.splits)})"
        )
    return [split]


def _class_names(cache: LogitCache) -> list[str]:
    return cache.manifest.label_names or [f"logit_{k}" for k in range(cache.manifest.classes)]


def _head_title(cache: LogitCache, split: str, shown: int) -> str:
    classes = cache.manifest.classes
    more = f", {shown} of {classes} classes" if shown < classes else ""
    return f"{split}: {cache.manifest.splits[split].rows} rows{more}"


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
                # NumPy prints a float32 in the fewest digits that read back as the same float32
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
            part = cache.split(split)
            logits = pa.FixedSizeListArray.from_arrays(
                part.logits.reshape(-1), type=fields.field("logits").type
            )
            names = pa.repeat(pa.scalar(split), len(part.ids))
            columns = [names, pa.array(part.ids), pa.array(part.row_hashes), logits]
            writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema))


if __name__ == "__main__":
    main()
