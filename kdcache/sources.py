"""Where a task's rows come from: built-in data, files (Parquet, CSV, JSON Lines), a hub data set.

`load_source` opens all splits and checks that the columns are there. Labels are read at once, because class
names depend on all of them; texts and images come in batches, so that images never lie decoded in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from kdcache import fingerprint, hub, subsets
from kdcache.builtin import load_builtin
from kdcache.columns import listed, plain
from kdcache.errors import KdcacheError, TaskError
from kdcache.mirror import mirrored
from kdcache.params import UNLABELLED, Source, Task

BATCH = 1024  # rows read at a time
SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")
Batches = Callable[[], Iterator[pa.Table]]


@dataclass(frozen=True)
class Rows:
    """A split, or one file of it: its labels, the class names it declares, and its features in batches.

    The labels of the split `unlabelled` are nulls: a label column is not read.
    """

    label: pa.ChunkedArray
    names: list[str] | None
    batches: Batches


@dataclass(frozen=True)
class Columns:
    """What is read of a split: text columns or the image column, and the label's; None where no label is read."""

    texts: list[str]
    image: str | None
    label: str | None

    @property
    def features(self) -> list[str]:
        return self.texts or [self.image or ""]

    @property
    def all(self) -> list[str]:
        return self.features if self.label is None else [*self.features, self.label]


@dataclass(frozen=True)
class Loaded:
    """The splits of a task, what they resolved to (for card.json), how many rows were left out, and why."""

    splits: dict[str, Rows]
    resolved: dict[str, Any]
    dropped: dict[str, int] = field(default_factory=dict)


def load_source(task: Task) -> Loaded:
    """Open the train and validation splits of a task, the further ones that it names, and the rest of train.

    Raises:
        TaskError: a file or column is missing, empty or unreadable, or the hub does not deliver the data set.
    """
    loaded = _load_whole(task)
    return loaded if task.train_size is None else _with_train_size(loaded, task, task.train_size)


def _load_whole(task: Task) -> Loaded:
    source = task.source
    if source.builtin is not None:
        return _load_builtin(task, source.builtin)
    if source.files is not None:
        return _load_files(task, source.files)
    folder = _mirror_folder(source)
    return _load_hub(task) if folder is None else _load_mirror(task, folder)


def _with_train_size(loaded: Loaded, task: Task, size: int) -> Loaded:
    train = loaded.splits["train"]
    rows = subsets.draw(train.label, size, task.sample_seed, task.regression)
    part = Rows(train.label.take(pa.array(rows)), train.names, subsets.taken(train.batches, rows))
    if task.unlabelled == "rest":
        return replace(loaded, splits={**loaded.splits, "train": part, UNLABELLED: _rest(train, rows)})
    dropped = {**loaded.dropped, f"not drawn (train_size: {size})": len(train.label) - size}
    return replace(loaded, splits={**loaded.splits, "train": part}, dropped=dropped)


def _rest(train: Rows, drawn: subsets.Indices) -> Rows:
    """The rows that were not drawn, without their labels."""
    others = np.setdiff1d(np.arange(len(train.label)), drawn)
    if len(others) == 0:
        raise TaskError(
            f"unlabelled: rest: train_size: {len(drawn)} draws all rows of train, so no rest is left; "
            "lower train_size, or leave out `unlabelled`"
        )
    return Rows(_no_labels(len(others)), None, subsets.taken(train.batches, others))


def _no_labels(rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(rows)])


def _columns(task: Task, split: str) -> Columns:
    return Columns(task.text or [], task.image, None if split == UNLABELLED else task.label)


def _check_columns(where: str, there: list[str], columns: Columns) -> None:
    for column in columns.all:
        count = there.count(column)
        if count == 0:
            raise TaskError(f"{where}: no column {column!r}; there are: {listed(there, 30) or 'none'}")
        if count > 1:
            raise TaskError(f"{where}: {count} columns are named {column!r}; names must differ")


def _of_table(where: str, table: pa.Table, columns: Columns, names: list[str] | None = None) -> Rows:
    _check_columns(where, table.column_names, columns)
    if table.num_rows == 0:
        raise TaskError(f"{where}: there are no rows")
    batches = partial(_slices, table.select(columns.features))
    if columns.label is None:
        return Rows(_no_labels(table.num_rows), None, batches)
    return Rows(plain(table.column(columns.label)), names, batches)


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, BATCH):
        yield table.slice(start, BATCH)


def _load_builtin(task: Task, name: str) -> Loaded:
    data = load_builtin(name)
    splits = {
        split: _of_table(f"{name} {split}", table, _columns(task, split), data.label_names)
        for split, table in data.tables.items()
    }
    return Loaded(splits, {"builtin": name, "package": data.package}, data.dropped)


# Files


def _load_files(task: Task, files: dict[str, str | list[str]]) -> Loaded:
    splits: dict[str, Rows] = {}
    resolved: dict[str, Any] = {}
    for split in task.source.split_names:
        given = files[split]
        paths = [Path(path) for path in ([given] if isinstance(given, str) else given)]
        columns = _columns(task, split)
        splits[split] = _joined(split, [_open_file(split, path, columns) for path in paths])
        resolved[split] = [{"file": path.as_posix(), "sha256": _digest(path)} for path in paths]
    return Loaded(splits, {"files": resolved})


def _digest(path: Path) -> str:
    try:
        return fingerprint.of_file(path)
    except KdcacheError as error:
        raise TaskError(str(error)) from None


def _open_file(split: str, path: Path, columns: Columns) -> Rows:
    where = f"{split}: {path}"
    if not path.exists():
        raise TaskError(f"{where}: the file does not exist (paths count from the working directory)")
    if path.is_dir():
        raise TaskError(f"{where}: is a folder; list the files in it")
    if path.suffix not in SUFFIXES:
        raise TaskError(
            f"{where}: expected a file named {', '.join(SUFFIXES)}, found {path.suffix or 'none'!r}"
        )
    if path.stat().st_size == 0:
        raise TaskError(f"{where}: the file is empty")
    if path.suffix == ".parquet":
        return _open_parquet(where, path, columns)
    with _reading(where):
        table = _read_csv(path, columns) if path.suffix == ".csv" else _read_json_lines(where, path, columns)
    return _of_table(where, table, columns)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise TaskError(f"{where}: cannot be read: {' '.join(str(error).split())}") from None


def _open_parquet(where: str, path: Path, columns: Columns) -> Rows:
    with _reading(where):
        schema, count = pq.read_schema(path), pq.read_metadata(path).num_rows
        _check_columns(where, schema.names, columns)
        labels = None if columns.label is None else pq.read_table(path, columns=[columns.label])
    if count == 0:
        raise TaskError(f"{where}: there are no rows")
    batches = partial(_parquet_batches, where, path, columns.features)
    if labels is None:
        return Rows(_no_labels(count), None, batches)
    return Rows(plain(labels.column(0)), declared_names(where, schema, columns.label or ""), batches)


def _parquet_batches(where: str, path: Path, columns: list[str]) -> Iterator[pa.Table]:
    with _reading(where), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, columns=columns):
            yield pa.Table.from_batches([batch])


def declared_names(where: str, schema: pa.Schema, label: str) -> list[str] | None:
    """Class names that Hugging Face metadata declares for the label column (`ClassLabel`), or None.

    Raises:
        TaskError: the metadata is there but damaged.
    """
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return None
    try:
        feature = json.loads(stored)["info"]["features"].get(label, {})
        if feature.get("_type") != "ClassLabel":
            return None
        return [str(name) for name in feature["names"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TaskError(f"{where}: its Hugging Face metadata cannot be read: {error!r}") from None


def _read_csv(path: Path, columns: Columns) -> pa.Table:
    texts = {column: pa.string() for column in columns.texts}
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=texts),
    )


def _read_json_lines(where: str, path: Path, columns: Columns) -> pa.Table:
    """One object a line; a key that a line lacks is a missing value, that no line has, a missing column."""
    values: dict[str, list[Any]] = {column: [] for column in columns.all}
    keys: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = _parse_line(f"{where}, line {number}", line)
                keys.update(dict.fromkeys(row))
                for column in values:
                    values[column].append(row.get(column))
    if not keys:
        raise TaskError(f"{where}: there are no rows")
    _check_columns(where, list(keys), columns)
    return pa.table({column: _json_column(where, column, found) for column, found in values.items()})


def _parse_line(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TaskError(f"{where}: is not JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise TaskError(f"{where}: expected one JSON object a line, found {type(row).__name__}")
    return row


def _json_column(where: str, column: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError) as error:
        raise TaskError(f"{where}: column {column!r} mixes types: {error}") from None


def _joined(split: str, parts: list[Rows]) -> Rows:
    """The files of a split, one after the other."""
    names = [part.names for part in parts if part.names is not None]
    if any(other != names[0] for other in names[1:]):
        raise TaskError(f"{split}: its files declare different class names: {'; '.join(map(listed, names))}")
    try:
        tables = [pa.table({"label": part.label}) for part in parts]
        label = pa.concat_tables(tables, promote_options="permissive").column("label")
    except pa.ArrowException:
        kinds = ", ".join(str(part.label.type) for part in parts)
        raise TaskError(f"{split}: the labels of its files are of different types: {kinds}") from None
    return Rows(label, names[0] if names else None, partial(_chained, parts))


def _chained(parts: list[Rows]) -> Iterator[pa.Table]:
    for part in parts:
        yield from part.batches()


# The hub


def _mirror_folder(source: Source) -> Path | None:
    try:
        return mirrored(source.hub or "")
    except KdcacheError as error:
        raise TaskError(f"{_hub_name(source)}: {error}") from None


def _load_mirror(task: Task, folder: Path) -> Loaded:
    """A hub data set from `KDCACHE_MIRROR`: `<configuration>/<split>.parquet`."""
    source = task.source
    folder = folder / source.name if source.name else folder
    chosen = {split: (source.splits or {}).get(split, split) for split in source.split_names}
    paths = {split: folder / f"{name}.parquet" for split, name in chosen.items()}
    splits = {split: _open_file(split, path, _columns(task, split)) for split, path in paths.items()}
    digests = {split: _digest(path) for split, path in paths.items()}
    resolved = {"hub": source.hub, "name": source.name, "revision": source.revision, "mirrored": digests}
    return Loaded(splits, resolved)


def _load_hub(task: Task) -> Loaded:
    source = task.source
    if Path(source.hub or "").exists():
        raise TaskError(f"{source.hub}: is a local path; use `files` for it, or run from another folder")
    commit = _commit(source)
    splits: dict[str, Rows] = {}
    for split in source.split_names:
        chosen = (source.splits or {}).get(split, split)
        splits[split] = _open_hub_split(source, commit, chosen, _columns(task, split))
    resolved = {"hub": source.hub, "name": source.name, "revision": source.revision, "commit": commit}
    return Loaded(splits, resolved)


def _commit(source: Source) -> str:
    """The commit hash that the revision names; without the hub, the one that it last named."""
    from huggingface_hub import HfApi

    hub.limit_waiting()
    with _asking_hub(source):
        found = HfApi().resolve_revision(source.hub or "", repo_type="dataset", revision=source.revision)
    return str(found.resolved)


def _open_hub_split(source: Source, commit: str, split: str, columns: Columns) -> Rows:
    import datasets

    with _asking_hub(source, split):
        data = datasets.load_dataset(source.hub, source.name, revision=commit, split=split)
    where = f"{_hub_name(source)}, split {split!r}"
    data = _of_commit(where, data, commit, split, source)
    _check_columns(where, data.column_names, columns)
    if len(data) == 0:
        raise TaskError(f"{where}: there are no rows")
    batches = partial(data.select_columns(columns.features).with_format("arrow").iter, BATCH)
    if columns.label is None:
        return Rows(_no_labels(len(data)), None, batches)
    label = data.select_columns([columns.label]).with_format("arrow")[:].column(columns.label)
    return Rows(plain(label), declared_names(where, data.features.arrow_schema, columns.label), batches)


def _of_commit(where: str, data: Any, commit: str, split: str, source: Source) -> Any:
    """The data of that very commit: when `datasets` cannot reach the hub, it takes the newest that it has cached.

    Its cache folder ends in the commit hash: <name>/<configuration>/<version>/<commit>/<file>.arrow.
    """
    folders = [Path(file["filename"]).parent for file in data.cache_files]
    other = next((path for path in folders if hub.COMMIT.fullmatch(path.name) and path.name != commit), None)
    if other is None:
        return data
    if not other.with_name(commit).is_dir():
        raise TaskError(
            f"{where}: asked for commit {commit}, but the hub did not deliver it and the local cache has "
            f"only {other.name}; check the revision and the network, or pin the cached commit"
        )
    from datasets.packaged_modules.cache.cache import Cache

    *_, configuration, version, _ = other.parts
    name = str(source.hub).split("/")[-1]
    builder = Cache(
        dataset_name=name, repo_id=source.hub, config_name=configuration, version=version, hash=commit
    )
    return builder.as_dataset(split=split)


def _hub_name(source: Source) -> str:
    config = f" ({source.name})" if source.name else ""
    return f"hub data set {source.hub}{config} at revision {source.revision}"


@contextmanager
def _asking_hub(source: Source, split: str | None = None) -> Iterator[None]:
    """Every failure to get a hub data set, as one TaskError that says what to do."""
    try:
        yield
    except Exception as error:  # httpx, huggingface_hub, datasets and builders each raise their own kinds
        what = _hub_name(source) + (f", split {split!r}" if split else "")
        advice = hub.explain(
            error,
            "download its files and use `files`",
            "cannot be loaded; check its name, configuration, revision and splits",
        )
        raise TaskError(f"{what}: {advice}") from error
