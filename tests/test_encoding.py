"""Tokens and pixels against what the tokenizer and NumPy give directly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from kdcache.columns import to_png
from kdcache.encoding import encode_images, encode_texts
from kdcache.errors import TaskError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]


def bert() -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def bare(model_max_length: int = 512) -> Any:
    """A tokenizer without special tokens around a text, like GPT-2's."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_input_names=["input_ids"]
    )


def test_texts_with_special_tokens_and_truncation() -> None:
    found = encode_texts(pa.table({"text": ["a b", "a b c d", "x"]}), bert(), 5)
    # [CLS]=2, [SEP]=3, [UNK]=1; five tokens leave room for three words
    assert [row.tolist() for row in found.input_ids] == [[2, 4, 5, 3], [2, 4, 5, 6, 3], [2, 1, 3]]
    assert found.input_ids[0].dtype == np.int32
    assert found.token_type_ids is not None
    assert [row.tolist() for row in found.token_type_ids] == [[0] * 4, [0] * 5, [0] * 3]
    assert found.truncated == 1


def test_pairs_lose_the_end_of_the_longer_text() -> None:
    found = encode_texts(pa.table({"text": ["a b c d"], "text_pair": ["b"]}), bert(), 6)
    assert found.input_ids[0].tolist() == [2, 4, 5, 3, 5, 3]
    assert found.token_type_ids is not None
    assert found.token_type_ids[0].tolist() == [0, 0, 0, 0, 1, 1]
    assert found.truncated == 1


def test_models_without_segments() -> None:
    found = encode_texts(pa.table({"text": ["a b", "c"]}), bare(), 4)
    assert [row.tolist() for row in found.input_ids] == [[4, 5], [6]]
    assert found.token_type_ids is None
    assert found.truncated == 0


def test_more_rows_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.encoding.BATCH", 2)
    texts = ["a", "b", "c", "a b c d", "d"]
    found = encode_texts(pa.table({"text": texts}), bert(), 4)
    assert [row[1] for row in found.input_ids] == [4, 5, 6, 4, 7]
    assert found.truncated == 1


def test_a_text_without_tokens() -> None:
    with pytest.raises(TaskError, match="row 1: the tokenizer finds no token"):
        encode_texts(pa.table({"text": ["a", " "]}), bare(), 4)


def images(*arrays: Any) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([to_png(np.asarray(array, dtype=np.uint8)) for array in arrays])])


def test_images_are_scaled_and_normalised() -> None:
    found = encode_images(images([[0, 255], [51, 102]]), 2, 1, [0.2], [0.4])
    # (v / 255 - 0.2) / 0.4: 0 -> -0.5; 255 -> 2; 51 (0.2) -> 0; 102 (0.4) -> 0.5
    assert found.shape == (1, 1, 2, 2)
    assert found.dtype == np.float32
    assert np.allclose(found[0, 0], [[-0.5, 2.0], [0.0, 0.5]], atol=1e-6)


def test_grey_becomes_three_equal_channels_each_normalised() -> None:
    found = encode_images(images([[51]]), 1, 3, [0.0, 0.1, 0.2], [1.0, 0.5, 0.1])
    assert np.allclose(found[0, :, 0, 0], [0.2, 0.2, 0.0], atol=1e-6)


def test_colour_becomes_grey_by_luminance() -> None:
    found = encode_images(images([[[255, 0, 0]]], [[[0, 255, 0]]]), 1, 1, [0.0], [1.0])
    assert np.allclose(found.ravel(), [0.299, 0.587], atol=2e-3)  # ITU-R 601, rounded to 8 bits


def test_channels_come_first() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    found = encode_images(images(pixels), 2, 3, [0.0] * 3, [1.0] * 3)
    assert np.allclose(found[0] * 255, pixels.transpose(2, 0, 1), atol=1e-4)


def test_other_sizes_are_resized_bilinearly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    found = encode_images(images(pixels, np.full((3, 3), 9)), 4, 1, [0.0], [1.0])
    expected = np.asarray(Image.fromarray(pixels).resize((4, 4), Image.Resampling.BILINEAR))
    assert np.allclose(found[0, 0] * 255, expected, atol=1e-4)
    assert np.allclose(found[1] * 255, 9, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "mean", "std"), [(4, [0.5] * 4, [0.5] * 4), (3, [0.5], [0.5] * 3), (1, [0.5], [0.0])]
)
def test_a_preprocessor_that_cannot_be(channels: int, mean: list[float], std: list[float]) -> None:
    with pytest.raises(TaskError, match=f"found {channels} channels.*correct its preprocessor_config.json"):
        encode_images(images([[0]]), 1, channels, mean, std)
