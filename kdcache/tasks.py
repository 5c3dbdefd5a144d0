"""Tasks: load a labelled data set, check it, keep it in one prepared form, and encode it for a model.

A prepared task is a folder with `train.parquet`, `validation.parquet`, a file for each further split (which is
evaluated like validation, but for `unlabelled`) and, written last, `card.json`. The columns: `id` int64 (the row's
position, 0..n-1), `row_hash` uint64 (its content and label, see `kdcache.fingerprint.row_hash`), `text` [and
`text_pair`] string or `image` binary (PNG), and `label` int64 (class index) or float64 (regression), which `unlabelled`
has not.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from kdcache import files, fingerprint
from kdcache.columns import ImageReader, Labels, TextReader, listed, read_labels
from kdcache.encoding import EncodedImages, Preprocessor, encode_images, encode_texts
from kdcache.errors import KdcacheError, TaskError
from kdcache.noise import with_noise
from kdcache.params import UNLABELLED, Augment, Task
from kdcache.rows import hash_rows
from kdcache.sources import Loaded, Rows, load_source

log = logging.getLogger(__name__)

CARD = "card.json"


class LabelNoise(BaseModel):
    """The train labels that were made wrong on purpose: how many, the fraction asked for, and the seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    fraction: float
    seed: int


class Unlabelled(BaseModel):
    """The rows without labels: the `rest` of train or a `split` of the source, and their own fingerprint.

    `shared_rows` counts distinct ones whose content is also in a split that is evaluated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: Literal["rest", "split"]
    shared_rows: int
    fingerprint: str


class TaskCard(BaseModel):
    """What a prepared task is: card.json.

    `image_size` is [height, width] of the largest image and `channels` 3 when any image has colour; both are
    null for texts. `shared_rows` counts distinct rows (content and label) that are in train and in a split that is
    evaluated: they stay, being the data set's own, but they flatter its scores. `fingerprint` covers the row
    hashes of every labelled split in order, the label names, the modality and whether it is a regression; not paths,
    metrics, max_length or augment, nor the unlabelled rows: what does not learn from them does not depend on them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    modality: Literal["text", "image"]
    regression: bool
    label_names: list[str]
    rows: dict[str, int]
    class_counts: dict[str, list[int]]
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    source: dict[str, Any]
    dropped: dict[str, int]
    shared_rows: int = 0
    label_noise: LabelNoise | None = None
    unlabelled: Unlabelled | None = None
    metrics: list[str]
    max_length: int | None
    augment: Augment | None = None
    fingerprint: str

    @property
    def classes(self) -> int:
        """K, the number of outputs: the number of classes, or 1 for a regression."""
        return 1 if self.regression else len(self.label_names)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The splits that models are scored on: validation first, then the further ones."""
        others = (split for split in self.rows if split not in ("train", "validation", UNLABELLED))
        return ("validation", *others)


@dataclass(frozen=True)
class EncodedSplit:
    """A split as a model takes it: ids int64, row_hashes uint64, labels int64 (regression: float32), all [N].

    Rows without a label come last: labels are [L], of the first L rows only, in the split `unlabelled` [0].
    Texts: `input_ids` and, for models with segments, `token_type_ids`: int32 [length] a row, not padded.
    Images: `images`, of V augmented views where the task has them (`kdcache.augmentation`).
    """

    ids: npt.NDArray[np.int64]
    row_hashes: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    input_ids: list[npt.NDArray[np.int32]] | None = None
    token_type_ids: list[npt.NDArray[np.int32]] | None = None
    images: EncodedImages | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def with_unlabelled(self, rows: EncodedSplit) -> EncodedSplit:
        """These rows, then those of the split `unlabelled`; ids are each split's own."""
        return EncodedSplit(
            np.concatenate([self.ids, rows.ids]),
            np.concatenate([self.row_hashes, rows.row_hashes]),
            self.labels,
            _one_list(self.input_ids, rows.input_ids),
            _one_list(self.token_type_ids, rows.token_type_ids),
            None if self.images is None or rows.images is None else self.images.followed_by(rows.images),
        )

    def views(self) -> Iterator[EncodedSplit]:
        """Each of the V views, as a split of its own; none, where rows are as they are."""
        if self.images is not None and self.images.pixels.ndim == 5:
            for pixels in self.images.pixels:
                yield replace(self, images=replace(self.images, pixels=pixels))


def _one_list(first: list[Any] | None, second: list[Any] | None) -> list[Any] | None:
    return None if first is None or second is None else first + second


def prepare_task(spec: Task, folder: Path, name: str = "") -> TaskCard:
    """Load the task's source, check every row, and write the prepared form into `folder`.

    From the start until card.json is written again the folder counts as incomplete.

    Args:
        name: the task's name in params.yaml; default: the folder's name.

    Raises:
        TaskError: the source cannot be had, or a row, label or column is not as declared.
        KdcacheError: the folder cannot be written (disk full, no permission).
    """
    folder = Path(folder)
    name = name or folder.name
    files.remove(folder / CARD)
    try:
        loaded = load_source(spec)
        names = _agreed_names(loaded)
        columns = {split: rows.label for split, rows in loaded.splits.items() if split != UNLABELLED}
        labels = read_labels(columns, names, spec.regression)
        _check_metrics(spec, labels.names)
        labels, noise = _noisy(spec, labels)
        readers = {
            split: _write_split(spec, folder, split, rows, labels.values.get(split))
            for split, rows in loaded.splits.items()
        }
    except TaskError as error:
        raise TaskError(f"task {name!r}: {error}") from error
    card = _card(spec, folder, name, loaded, labels, readers).model_copy(update={"label_noise": noise})
    files.write_json(folder / CARD, card.model_dump(mode="json"))
    _log_prepared(card, folder)
    return card


def _agreed_names(loaded: Loaded) -> list[str] | None:
    declared = {split: rows.names for split, rows in loaded.splits.items() if rows.names is not None}
    first = next(iter(declared), "")
    for split, names in declared.items():
        if names != declared[first]:
            raise TaskError(
                f"{first} declares the classes {listed(declared[first])}, {split} {listed(names)}"
            )
    return declared.get(first)


def _check_metrics(spec: Task, names: list[str]) -> None:
    if "f1" in spec.metrics and len(names) != 2:
        raise TaskError(
            f"metric f1 is for two classes, there are {len(names)} ({listed(names)}); use macro_f1"
        )


def _noisy(spec: Task, labels: Labels) -> tuple[Labels, LabelNoise | None]:
    """The labels with the task's `label_noise` in train: all that follows, row hashes too, is of the noisy ones."""
    if spec.label_noise == 0:
        return labels, None
    noisy = with_noise(labels.values["train"], len(labels.names), spec.label_noise, spec.noise_seed)
    facts = LabelNoise(rows=len(noisy.rows), fraction=spec.label_noise, seed=spec.noise_seed)
    return replace(labels, values={**labels.values, "train": noisy.labels}), facts


def _write_split(
    spec: Task, folder: Path, split: str, rows: Rows, labels: npt.NDArray[Any] | None
) -> TextReader | ImageReader:
    reader = TextReader(split, spec.text) if spec.text else ImageReader(split, spec.image or "")
    schema = _schema(spec, labelled=labels is not None)

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in _prepared(rows, reader, labels, schema):
                writer.write_table(table)
        reader.finish()

    files.write_atomically(folder / f"{split}.parquet", write)
    return reader


def _features(spec: Task) -> list[str]:
    """The prepared columns that a row's content is in."""
    return ["text", "text_pair"][: len(spec.text)] if spec.text else ["image"]


def _schema(spec: Task, labelled: bool) -> pa.Schema:
    features = [(column, pa.string() if spec.text else pa.binary()) for column in _features(spec)]
    label = [("label", pa.float64() if spec.regression else pa.int64())] if labelled else []
    return pa.schema([("id", pa.int64()), ("row_hash", pa.uint64()), *features, *label])


def _prepared(
    rows: Rows, reader: TextReader | ImageReader, labels: npt.NDArray[Any] | None, schema: pa.Schema
) -> Iterator[pa.Table]:
    start = 0
    for batch in rows.batches():
        features, contents = reader.read(batch, start)
        chosen = None if labels is None else labels[start : start + batch.num_rows]
        known = [None] * batch.num_rows if chosen is None else chosen.tolist()
        hashes = [fingerprint.row_hash(parts, label) for parts, label in zip(contents, known, strict=True)]
        columns = {
            "id": np.arange(start, start + batch.num_rows, dtype=np.int64),
            "row_hash": pa.array(hashes, pa.uint64()),
            **features,
            **({} if chosen is None else {"label": chosen}),
        }
        yield pa.table(columns, schema=schema)
        start += batch.num_rows


def _card(
    spec: Task,
    folder: Path,
    name: str,
    loaded: Loaded,
    labels: Labels,
    readers: dict[str, TextReader | ImageReader],
) -> TaskCard:
    hashes = {split: _row_hashes(folder, split) for split in loaded.splits}
    labelled = {split: hashes[split] for split in labels.values}
    seen = np.concatenate([found for split, found in labelled.items() if split != "train"])
    return TaskCard(
        name=name,
        modality=spec.modality,
        regression=spec.regression,
        label_names=labels.names,
        rows={split: len(found) for split, found in hashes.items()},
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
    """The facts of the unlabelled rows; those of the evaluated splits are compared with them by content alone."""
    features = _features(spec)
    evaluated = [
        hash_rows(pq.read_table(folder / f"{split}.parquet", columns=features), features)
        for split in hashes
        if split not in ("train", UNLABELLED)
    ]
    mine = hashes[UNLABELLED]
    return Unlabelled(
        origin="rest" if spec.unlabelled else "split",
        shared_rows=len(np.intersect1d(mine, np.concatenate(evaluated))),
        fingerprint=_fingerprint(spec, [], {UNLABELLED: mine}),
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
    rows = {
        split: hashlib.sha256(found.astype("<u8").tobytes()).hexdigest() for split, found in hashes.items()
    }
    content = {"modality": spec.modality, "regression": spec.regression, "label_names": names, "rows": rows}
    return fingerprint.of_json(content)


def _log_prepared(card: TaskCard, folder: Path) -> None:
    counts = ", ".join(f"{split} {count:,}" for split, count in card.rows.items())
    kind = "regression" if card.regression else f"{card.classes} classes: {listed(card.label_names)}"
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


def read_card(folder: Path) -> TaskCard:
    """The card of a prepared task.

    Raises:
        TaskError: the task is not prepared, only in part, or its card is damaged.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise TaskError(
            f"{folder}: no {CARD}, so this task is not prepared or not completely; run stage prepare"
        )
    try:
        card = TaskCard.model_validate(files.read_json(folder / CARD))
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise TaskError(f"{folder / CARD}: not a task card (see {keys}); run stage prepare again") from None
    except KdcacheError as error:
        raise TaskError(str(error)) from None
    for split in card.rows:
        if not (folder / f"{split}.parquet").is_file():
            raise TaskError(f"{folder / split}.parquet: the file is missing; run stage prepare again")
    return card


def load_split(folder: Path, split: str, columns: list[str] | None = None) -> pa.Table:
    """One split of a prepared task, in id order.

    Args:
        columns: only these; default all of them.

    Raises:
        TaskError: the task is not prepared, there is no such split or column, or its file is damaged.
    """
    card = read_card(folder)
    if split not in card.rows:
        raise TaskError(f"{folder}: no split {split!r}; there are: {listed(card.rows)}")
    path = Path(folder) / f"{split}.parquet"
    try:
        there = pq.read_schema(path).names
        lacking = [column for column in columns or [] if column not in there]
        if lacking:
            raise TaskError(
                f"{path}: has no column {listed(lacking)}; there are: {listed(there)} (the split `unlabelled` has no "
                "labels; if it should be there, run stage prepare again)"
            )
        table = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise TaskError(f"{path}: cannot be read ({error}); run stage prepare again") from None
    if table.num_rows != card.rows[split]:
        raise TaskError(
            f"{path}: has {table.num_rows} rows, the card says {card.rows[split]}; run prepare again"
        )
    return table


def encode_split(folder: Path, split: str, preprocessor: Preprocessor) -> EncodedSplit:
    """A split as the model that belongs to `preprocessor` takes it.

    Texts are cut after the task's max_length tokens; how many rows that concerned is logged.

    Raises:
        TaskError: the task is not prepared, or is not of the preprocessor's modality.
    """
    card = read_card(folder)
    if preprocessor.kind != card.modality:
        raise TaskError(f"task {card.name!r} has {card.modality}s, but the model takes {preprocessor.kind}s")
    table = load_split(folder, split)
    ids = table.column("id").to_numpy()
    hashes = table.column("row_hash").to_numpy()
    labels = labels_of(table, card)
    if card.modality == "image":
        images = encode_images(table.column("image"), preprocessor)
        return EncodedSplit(ids, hashes, labels, images=images)
    try:
        texts = encode_texts(table, preprocessor.tokenizer, card.max_length or 0)
    except TaskError as error:
        raise TaskError(f"task {card.name!r}, {split}: {error}") from None
    if texts.truncated:
        note = "task %s, %s: %d of %d texts are longer than max_length %d and were cut"
        log.info(note, card.name, split, texts.truncated, len(ids), card.max_length)
    return EncodedSplit(ids, hashes, labels, texts.input_ids, texts.token_type_ids)


def labels_of(table: pa.Table, card: TaskCard) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    """The labels of a split's rows as training takes them, [N]; [0] of the split `unlabelled`."""
    kind: Any = np.float32 if card.regression else np.int64
    if "label" not in table.column_names:
        return np.empty(0, kind)
    return table.column("label").to_numpy().astype(kind)  # type: ignore[no-any-return]
