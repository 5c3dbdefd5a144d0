"""Turn prepared rows into a model's input: tokens for texts, normalised arrays for images.

A preprocessor says how (`kdcache.models.load_preprocessor`); this module needs only its attributes: `kind`,
and `tokenizer` (text), or `size`, `channels`, `mean` and `std` (image).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from kdcache.columns import Pixels, from_png
from kdcache.errors import TaskError

BATCH = 1024  # texts tokenised at a time
Tokens = npt.NDArray[np.int32]


class Preprocessor(Protocol):
    """What encoding needs to know of a model; see `kdcache.models.Preprocessor`."""

    @property
    def kind(self) -> Literal["text", "image"]: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def mean(self) -> list[float]: ...
    @property
    def std(self) -> list[float]: ...


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids per row, special tokens included; segment ids where the model has them; rows cut short."""

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
        if len(texts) == 2 and tokenizer.sep_token is None:
            # GPT-2 and Llama put nothing between two texts; their end-of-text token says where the second begins.
            texts[1] = [f"{tokenizer.eos_token}{text}" for text in texts[1]]
        batch = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        input_ids += [np.array(row, dtype=np.int32) for row in batch["input_ids"]]
        types += [np.array(row, dtype=np.int32) for row in batch.get("token_type_ids", [])]
        truncated += _count_truncated(batch, tokenizer, texts, max_length)
    for row, tokens in enumerate(input_ids):
        if len(tokens) == 0:
            raise TaskError(f"row {row}: the tokenizer finds no token in this text; remove the row")
    return EncodedTexts(input_ids, types or None, truncated)


def _count_truncated(batch: Any, tokenizer: Any, texts: list[list[str]], max_length: int) -> int:
    if batch.encodings is not None:  # a fast tokenizer keeps what it cut off
        return sum(bool(encoding.overflowing) for encoding in batch.encodings)
    whole = tokenizer(*texts, truncation=False, return_attention_mask=False, verbose=False)
    return sum(len(row) > max_length for row in whole["input_ids"])


def encode_images(
    images: pa.ChunkedArray, size: int, channels: int, mean: list[float], std: list[float]
) -> npt.NDArray[np.float32]:
    """Decode, convert to grey or RGB, resize bilinearly where the size differs, scale to 0..1 and normalise.

    Returns:
        float32 [N, channels, size, size].

    Raises:
        TaskError: the preprocessor has other than 1 or 3 channels, or a mean or std of another length.
    """
    values = np.empty((len(images), channels, size, size), dtype=np.float32)
    for row, png in enumerate(images):
        values[row] = encode_image(from_png(png.as_py()), size, channels, mean, std)
    return values


def encode_image(
    pixels: Pixels, size: int, channels: int, mean: list[float], std: list[float]
) -> npt.NDArray[np.float32]:
    """One image, uint8 [H, W] or [H, W, 3], as `encode_images` encodes it: float32 [channels, size, size].

    Raises:
        TaskError: as `encode_images`.
    """
    if channels not in (1, 3) or len(mean) != channels or len(std) != channels or 0 in std:
        raise TaskError(
            f"an image model needs 1 or 3 channels with as many means and non-zero stds, found {channels} "
            f"channels, mean {mean}, std {std}; correct its preprocessor_config.json"
        )
    centre = np.array(mean, dtype=np.float32).reshape(channels, 1, 1)
    scale = np.array(std, dtype=np.float32).reshape(channels, 1, 1)
    encoded: npt.NDArray[np.float32] = (_resized(pixels, size, channels) / np.float32(255) - centre) / scale
    return encoded


def _resized(pixels: Pixels, size: int, channels: int) -> npt.NDArray[np.float32]:
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    resized = np.asarray(image, dtype=np.float32).reshape(size, size, channels)
    return resized.transpose(2, 0, 1)
