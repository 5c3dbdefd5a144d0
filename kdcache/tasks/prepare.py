"""Prepare a task: load its data set, check every row, and write it to Parquet in one form for all models.

A prepared task is a folder with `train.parquet`, `validation.parquet`, a file for each further split and, written last,
`card.json`. Further splits are evaluated like validation, except `unlabelled`. The columns: `id` int64 (the row's
position, 0..n-1), `row_hash` uint64 (its content and label, see `kdcache.hashing.rows.row_hash`), `text` [and
`text_pair`] string or `image` binary (PNG), and `label` int64 (class index) or float64 (regression). `unlabelled`
and the documents of language modelling have no `label`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.errors import CacheError, TaskError
from kdcache.hashing.digests import Digests, checked_hashes
from kdcache.hashing.rows import hash_rows
from kdcache.study import UNLABELLED, Task
from kdcache.system import files
from kdcache.tasks.card import CARD, LabelNoise, TaskCard, Unlabelled, rows_fingerprint
from kdcache.tasks.columns import shown, shown_all
from kdcache.tasks.images import ImageReader
from kdcache.tasks.label_noise import with_noise
from kdcache.tasks.labels import Labels, read_labels, similar_names
from kdcache.tasks.rows import Loaded, Rows
from kdcache.tasks.sources import load_source
from kdcache.tasks.texts import TextReader

log = logging.getLogger(__name__)


def prepare_task(spec: Task, folder: Path, name: str = "") -> TaskCard:
    """Load the task's source, check every row, and write the prepared form into `folder`.

    The folder counts as incomplete from the start until card.json is written again.

    Args:
        name: the task's name in params.yaml; default: the folder's name.

    Raises:
        TaskError: the source cannot be read, or a row, label or column is not as declared.
        KdcacheError: the folder cannot be written (disk full, no permission).
    """
    folder = Path(folder)
    name = name or folder.name
    files.remove(folder / CARD)
    try:
        with _reading_rows():
            loaded, labels, positive = _open(spec)
            labels, noise = _noisy(spec, labels)
            readers = {
                split: _write_split(spec, folder, split, rows, labels.values.get(split))
                for split, rows in loaded.splits.items()
            }
    except TaskError as error:
        raise TaskError(f"task {name!r}: {error}") from error
    card = _card(spec, folder, name, loaded, labels, readers)
    card = card.model_copy(update={"label_noise": noise, "positive": positive})
    files.write_json(folder / CARD, card.content)
    _log_prepared(card, folder)
    _log_classes(card, spec)
    return card


def check_source(spec: Task, most_images: int = 1000) -> list[str]:
    """Check a task's source as `prepare_task` does, and write nothing. Only the first images of a split are decoded.

    Returns:
        The names of the classes in order; none where the labels are no classes.

    Raises:
        TaskError: as `prepare_task`, except for mistakes in images that are not decoded.
    """
    with _reading_rows():
        loaded, labels, _ = _open(spec)
        for split, rows in loaded.splits.items():
            given = labels.values.get(split)
            reader = _reader(spec, split, rows)
            digests: list[Digests] = []
            for _ in _prepared(rows, reader, given, _schema(spec, given is not None), digests):
                if spec.image and sum(map(len, digests)) >= most_images:
                    break
            else:
                reader.finish()
                _refuse_clashes(split, digests)
    return labels.names


def _open(spec: Task) -> tuple[Loaded, Labels, str | None]:
    """The splits, their labels as they are in the source, and the class that f1 is of."""
    loaded = load_source(spec)
    columns = {split: rows.label for split, rows in loaded.splits.items() if split != UNLABELLED}
    names = _agreed_names(loaded)
    numbered = {split: rows.numbered for split, rows in loaded.splits.items()}
    try:
        labels = (
            Labels({}, [])
            if spec.language_modelling
            else read_labels(columns, names, spec.regression, numbered)
        )
    except TaskError as error:
        where = [] if spec.source.folder is not None else [f"label: {spec.label}"]
        where += [] if spec.train_size is None else [f"train_size: {spec.train_size}"]
        raise TaskError(f"{error} ({', '.join(where)})" if where else str(error)) from error
    return loaded, labels, _positive(spec, labels.names)


@contextmanager
def _reading_rows() -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:  # no check foresees it, such as a batch of texts over 2 GiB
        raise TaskError(f"its rows cannot be read: {str(error)[:300]}") from error


def _agreed_names(loaded: Loaded) -> list[str] | None:
    declared = {split: rows.names for split, rows in loaded.splits.items() if rows.names is not None}
    first = next(iter(declared), "")
    for split, names in declared.items():
        if names != declared[first]:
            raise TaskError(
                f"{first} declares the classes {shown_all(declared[first], beside=names)}, {split} "
                f"{shown_all(names, beside=declared[first])}"
            )
    return declared.get(first)


def _positive(spec: Task, names: list[str]) -> str | None:
    """The class that f1 is of: the one that the task names, otherwise the second; None unless there are two."""
    if "f1" in spec.metrics and len(names) != 2:
        raise TaskError(
            f"metric f1 is for two classes, there are {len(names)} ({shown_all(names)}); use macro_f1"
        )
    if spec.positive is None:
        return names[1] if len(names) == 2 else None
    if spec.positive not in names or len(names) != 2:
        raise TaskError(
            f"positive: {shown_all([spec.positive], beside=names)} is to be one of two classes; there are "
            f"{shown_all(names, beside=[spec.positive])}"
        )
    return spec.positive


def _noisy(spec: Task, labels: Labels) -> tuple[Labels, LabelNoise | None]:
    """The labels, with the task's `label_noise` in train; everything later, row hashes too, sees the noisy labels."""
    if spec.label_noise == 0:
        return labels, None
    noisy = with_noise(labels.values["train"], len(labels.names), spec.label_noise, spec.noise_seed)
    facts = LabelNoise(rows=len(noisy.rows), fraction=spec.label_noise, seed=spec.noise_seed)
    return replace(labels, values={**labels.values, "train": noisy.labels}), facts


def _write_split(
    spec: Task, folder: Path, split: str, rows: Rows, labels: npt.NDArray[Any] | None
) -> TextReader | ImageReader:
    reader = _reader(spec, split, rows)
    schema = _schema(spec, labelled=labels is not None)

    digests: list[Digests] = []

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in _prepared(rows, reader, labels, schema, digests):
                writer.write_table(table)
        reader.finish()
        _refuse_clashes(split, digests)

    files.write_atomically(folder / f"{split}.parquet", write)
    return reader


def _reader(spec: Task, split: str, rows: Rows) -> TextReader | ImageReader:
    if spec.text:
        return TextReader(split, spec.text, rows.numbered)
    return ImageReader(split, spec.image or "", rows.numbered)


def _features(spec: Task) -> list[str]:
    """The prepared columns that a row's content is in."""
    return ["text", "text_pair"][: len(spec.text)] if spec.text else ["image"]


def _schema(spec: Task, labelled: bool) -> pa.Schema:
    features = [(column, pa.string() if spec.text else pa.binary()) for column in _features(spec)]
    label = [("label", pa.float64() if spec.regression else pa.int64())] if labelled else []
    return pa.schema([("id", pa.int64()), ("row_hash", pa.uint64()), *features, *label])


def _prepared(
    rows: Rows,
    reader: TextReader | ImageReader,
    labels: npt.NDArray[Any] | None,
    schema: pa.Schema,
    digests: list[Digests],
) -> Iterator[pa.Table]:
    """The split in pieces; the digests of its rows are appended to `digests`."""
    start, end, count = 0, 0, len(rows.label)
    for batch in rows.batches():
        end = start + batch.num_rows
        if end > count:
            break
        chosen = None if labels is None else labels[start:end]
        features, hashed = reader.read(batch, start, chosen)
        digests.append(hashed)
        columns = {
            "id": np.arange(start, end, dtype=np.int64),
            "row_hash": hashed[:, 0],
            **features,
            **({} if chosen is None else {"label": chosen}),
        }
        yield pa.table(columns, schema=schema)
        start = end
    if end != count:
        raise TaskError(
            f"{reader.split}: {count} labels, but {end} rows: its file changed meanwhile; run again"
        )


def _refuse_clashes(split: str, digests: list[Digests]) -> None:
    try:
        checked_hashes(np.concatenate(digests))
    except CacheError as error:
        raise TaskError(f"{split}: {error}") from None


def _card(
    spec: Task,
    folder: Path,
    name: str,
    loaded: Loaded,
    labels: Labels,
    readers: dict[str, TextReader | ImageReader],
) -> TaskCard:
    hashes = {split: _row_hashes(folder, split) for split in loaded.splits}
    labelled = {split: column for split, column in hashes.items() if split != UNLABELLED}
    seen = np.concatenate([column for split, column in labelled.items() if split != "train"])
    return TaskCard(
        name=name,
        kind=spec.kind,
        modality=spec.modality,
        regression=spec.regression,
        label_names=labels.names,
        rows={split: len(column) for split, column in hashes.items()},
        class_counts={split: _counts(values, labels.names) for split, values in labels.values.items()},
        **_image_facts([readers[split] for split in labelled]),
        source=loaded.resolved,
        dropped=loaded.dropped,
        shared_rows=len(np.intersect1d(hashes["train"], seen)),
        metrics=list(spec.metrics),
        max_length=spec.max_length,
        augment=spec.augment,
        unlabelled=_unlabelled(spec, folder, hashes) if UNLABELLED in hashes else None,
        fingerprint=_fingerprint(spec, labels.names, labelled),
    )


def _unlabelled(spec: Task, folder: Path, hashes: dict[str, npt.NDArray[np.uint64]]) -> Unlabelled:
    """The facts of the unlabelled rows, whose content (without labels) is compared with the evaluated splits."""
    features = _features(spec)
    evaluated = [
        hash_rows(pq.read_table(folder / f"{split}.parquet", columns=features), features)
        for split in hashes
        if split not in ("train", UNLABELLED)
    ]
    unlabelled = hashes[UNLABELLED]
    return Unlabelled(
        origin="rest" if spec.unlabelled else "split",
        shared_rows=len(np.intersect1d(unlabelled, np.concatenate(evaluated))),
        fingerprint=_fingerprint(spec, [], {UNLABELLED: unlabelled}),
    )


def _counts(labels: npt.NDArray[Any], names: list[str]) -> list[int]:
    return [int(count) for count in np.bincount(labels, minlength=len(names))] if names else []


def _image_facts(given: list[TextReader | ImageReader]) -> dict[str, Any]:
    readers = [reader for reader in given if isinstance(reader, ImageReader)]
    if not readers:
        return {}
    size = (max(reader.height for reader in readers), max(reader.width for reader in readers))
    return {"image_size": size, "channels": max(reader.channels for reader in readers)}


def _row_hashes(folder: Path, split: str) -> npt.NDArray[np.uint64]:
    column = pq.read_table(folder / f"{split}.parquet", columns=["row_hash"]).column("row_hash")
    return np.asarray(column.to_numpy(), dtype=np.uint64)


def _fingerprint(spec: Task, names: list[str], hashes: dict[str, npt.NDArray[np.uint64]]) -> str:
    return rows_fingerprint(spec.modality, spec.regression, names, hashes, spec.kind)


def _log_prepared(card: TaskCard, folder: Path) -> None:
    counts = ", ".join(f"{split} {count:,}" for split, count in card.rows.items())
    kind = "regression" if card.regression else f"{card.classes} classes: {shown_all(card.label_names)}"
    if card.language_modelling:
        kind = "documents"
    log.info("task %s: %s rows (%s) in %s", card.name, counts, kind, folder)
    if card.shared_rows:
        evaluated = " or ".join(card.evaluated)
        log.warning("task %s: %d rows are in train and in %s alike", card.name, card.shared_rows, evaluated)
    if card.unlabelled and card.unlabelled.shared_rows:
        note = "task %s: %d unlabelled rows are also in %s"
        log.warning(note, card.name, card.unlabelled.shared_rows, " or ".join(card.evaluated))
    if card.label_noise:
        log.warning("task %s: %d train labels are wrong on purpose", card.name, card.label_noise.rows)
    for reason, count in card.dropped.items():
        log.info("task %s: %d train rows dropped: %s", card.name, count, reason)


def _log_classes(card: TaskCard, spec: Task) -> None:
    names = card.label_names
    if "f1" in spec.metrics and spec.positive is None:
        note = "task %s: f1 is of class %s, the second of %s; to choose the other, add `positive: %s`"
        log.warning(note, card.name, shown(names[1]), shown_all(names), shown(names[0]))
    similar = similar_names(names, str.casefold)
    if similar:
        log.warning("task %s: classes that differ in case only: %s", card.name, shown_all(similar))
    if any(name != name.strip() for name in names):
        log.warning("task %s: class names begin or end in white space: %s", card.name, shown_all(names))
    if len(names) > 2 and sum(card.class_counts["train"]) < 2 * len(names):
        note = "task %s: %d classes in %d train rows: is %r the column of the labels?"
        log.warning(note, card.name, len(names), card.rows["train"], spec.label)
