"""Turn prepared rows into a model's input: texts into tokens, images into pixels of the model's size."""

from __future__ import annotations

import io
import logging
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
from PIL import Image

from kdcache.errors import TaskError
from kdcache.modelling.preprocessors import Preprocessor
from kdcache.tasks.card import TaskCard
from kdcache.tasks.images import Pixels
from kdcache.tasks.prepared import PreparedTask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedSplit:
    """A split encoded for a model: ids int64, row_hashes uint64, labels int64 (regression: float32), all [N].

    Rows without a label come last: labels are [L], of the first L rows only, in the split `unlabelled` [0].
    Texts: `input_ids` and, for models with segments, `token_type_ids`: int32 [length] a row, not padded.
    Images: `images`, of V augmented views where the task has them (`kdcache.modelling.augmentation`).
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
        """These rows, followed by those of the split `unlabelled`; each split keeps its own ids."""
        return EncodedSplit(
            np.concatenate([self.ids, rows.ids]),
            np.concatenate([self.row_hashes, rows.row_hashes]),
            self.labels,
            _one_list(self.input_ids, rows.input_ids),
            _one_list(self.token_type_ids, rows.token_type_ids),
            None if self.images is None or rows.images is None else self.images.followed_by(rows.images),
        )

    def views(self) -> Iterator[EncodedSplit]:
        """Each of the V views as a split of its own; empty without augmentation."""
        if self.images is not None and self.images.pixels.ndim == 5:
            for pixels in self.images.pixels:
                yield replace(self, images=replace(self.images, pixels=pixels))


def _one_list(first: list[Any] | None, second: list[Any] | None) -> list[Any] | None:
    return None if first is None or second is None else first + second


def encode_split(task: PreparedTask, split: str, preprocessor: Preprocessor) -> EncodedSplit:
    """Encode a split for the model that belongs to `preprocessor`.

    Texts are cut after the task's max_length tokens; the number of rows that were cut is logged.

    Raises:
        TaskError: the task is not prepared, or is not of the preprocessor's modality.
    """
    card = task.card
    if preprocessor.kind != card.modality:
        raise TaskError(f"task {card.name!r} has {card.modality}s, but the model takes {preprocessor.kind}s")
    table = task.rows(split)
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
    """The labels of a split's rows for training, [N]; [0] for the split `unlabelled`."""
    kind: Any = np.float32 if card.regression else np.int64
    if "label" not in table.column_names:
        return np.empty(0, kind)
    return table.column("label").to_numpy().astype(kind)  # type: ignore[no-any-return]


BATCH = 1024  # texts tokenised at a time
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids per row, with special tokens; segment ids if the model has them; the number of rows that were cut."""

    input_ids: list[Tokens]
    token_type_ids: list[Tokens] | None
    truncated: int


def encode_texts(table: pa.Table, tokenizer: Any, max_length: int) -> EncodedTexts:
    """Tokenise the columns `text` [and `text_pair`], at most `max_length` tokens a row, without padding.

    Raises:
        TaskError: a row has no tokens at all.
    """
    columns = [name for name in ("text", "text_pair") if name in table.column_names]
    input_ids: list[Tokens] = []
    types: list[Tokens] = []
    truncated = 0
    for start in range(0, table.num_rows, BATCH):
        texts = [table.column(name).slice(start, BATCH).to_pylist() for name in columns]
        if len(texts) == 2 and not _joins_pairs(tokenizer):
            # GPT-2 and Llama put nothing between two texts; their end-of-text token says where the second begins.
            if not tokenizer.eos_token:
                raise TaskError(
                    "a pair of texts needs a tokenizer that puts a sep token between them, or has an eos token, which "
                    "says where the second begins; this one does neither: name one in its tokenizer_config.json, or "
                    "choose another checkpoint"
                )
            texts[1] = [f"{tokenizer.eos_token}{text}" for text in texts[1]]
        batch = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        input_ids += [np.array(row, dtype=np.int32) for row in batch["input_ids"]]
        types += [np.array(row, dtype=np.int32) for row in batch.get("token_type_ids", [])]
        truncated += _count_truncated(batch, tokenizer, texts, max_length)
    for row, tokens in enumerate(input_ids):
        if len(tokens) == 0:
            raise TaskError(f"row {row}: the tokenizer finds no token in this text; remove the row")
    return EncodedTexts(input_ids, types or None, truncated)


def _joins_pairs(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts a sep token between two texts; a name in its settings alone puts none."""
    added = tokenizer.num_special_tokens_to_add
    return tokenizer.sep_token is not None and added(pair=True) > added(pair=False)


def _count_truncated(batch: Any, tokenizer: Any, texts: list[list[str]], max_length: int) -> int:
    if batch.encodings is not None:  # a fast tokenizer keeps what it cut off
        return sum(bool(encoding.overflowing) for encoding in batch.encodings)
    whole = tokenizer(*texts, truncation=False, return_attention_mask=False, verbose=False)
    return sum(len(row) > max_length for row in whole["input_ids"])


@dataclass(frozen=True)
class EncodedImages:
    """Pixels in a model's size, uint8 [N, C, H, W], or [V, N, C, H, W] of V augmented views.

    A model takes (pixels / 255 - mean) / std, by channel. That is done a batch at a time
    (`kdcache.modelling.batches`): as float32 all rows would take four times the memory.
    """

    pixels: npt.NDArray[np.uint8]
    mean: list[float]
    std: list[float]

    def followed_by(self, other: EncodedImages) -> EncodedImages:
        """These rows, then the others', in the same views."""
        *views, rows, channels, height, width = self.pixels.shape
        pixels = pixel_array((*views, rows + other.pixels.shape[-4], channels, height, width))
        np.concatenate([self.pixels, other.pixels], axis=-4, out=pixels)
        return EncodedImages(pixels, self.mean, self.std)


def pixel_array(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An empty array for pixels: in memory if it needs at most half of what is free, else in a temporary file.

    The file has no name, so it disappears with the process, in whatever way that ends. The system reads only those
    parts that are used.
    """
    size = math.prod(shape)
    if size <= psutil.virtual_memory().available / 2:
        return np.empty(shape, dtype=np.uint8)
    log.info(
        "%.1f GB of pixels are kept in a file in %s: there is no memory for them",
        size / 1e9,
        tempfile.gettempdir(),
    )
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def encode_images(images: pa.ChunkedArray, preprocessor: Preprocessor) -> EncodedImages:
    """Decode, convert to grey or RGB, and resize bilinearly if the size differs.

    Raises:
        TaskError: the preprocessor has other than 1 or 3 channels, or a mean or std of another length.
    """
    check_channels(preprocessor)
    size, channels = preprocessor.size, preprocessor.channels
    pixels = pixel_array((len(images), channels, size, size))
    for row, png in enumerate(images):
        pixels[row] = encode_image(from_png(png.as_py()), size, channels)
    return EncodedImages(pixels, preprocessor.mean, preprocessor.std)


def check_channels(preprocessor: Preprocessor) -> None:
    """Whether images can be encoded for such a model.

    Raises:
        TaskError: the preprocessor has other than 1 or 3 channels, or a mean or std of another length.
    """
    channels, mean, std = preprocessor.channels, preprocessor.mean, preprocessor.std
    if channels not in (1, 3) or len(mean) != channels or len(std) != channels or 0 in std:
        raise TaskError(
            f"an image model needs 1 or 3 channels with as many means and non-zero stds, found {channels} "
            f"channels, mean {mean}, std {std}; correct its preprocessor_config.json"
        )


def encode_image(pixels: Pixels, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """One image, uint8 [H, W] or [H, W, 3], as `encode_images` encodes it: uint8 [channels, size, size]."""
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(size, size, channels).transpose(2, 0, 1)


def from_png(data: bytes) -> Pixels:
    """The pixels that `kdcache.tasks.images.to_png` wrote."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)
