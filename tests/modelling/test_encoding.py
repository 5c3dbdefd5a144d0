"""Tokens and pixels against what the tokenizer and NumPy give directly."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from kdcache.errors import TaskError
from kdcache.modelling.encoding import EncodedImages, encode_images, encode_texts
from kdcache.tasks.images import to_png

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]


def bert() -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def bare(**special: str) -> Any:
    """A tokenizer without special tokens around a text, like GPT-2's."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_input_names=["input_ids"],
        **special,
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


def test_a_pair_without_a_separator_has_the_end_of_text_between() -> None:
    pair = pa.table({"text": ["a b"], "text_pair": ["c"]})
    assert encode_texts(pair, bare(eos_token="d"), 8).input_ids[0].tolist() == [4, 5, 7, 6]


def test_a_pair_with_nothing_to_separate_it_is_refused() -> None:
    pair = pa.table({"text": ["a b"], "text_pair": ["c"]})
    for tokens in ({}, {"sep_token": "d"}, {"eos_token": ""}, {"sep_token": "d", "eos_token": ""}):
        with pytest.raises(
            TaskError, match="needs a tokenizer that puts a sep token between them, or has an eos token"
        ):
            encode_texts(pair, bare(**tokens), 8)


def test_a_sep_token_that_is_only_named_separates_nothing() -> None:
    """Without one between them, "a b" and "c" are the tokens of "a" and "b c"."""
    pair = pa.table({"text": ["a b"], "text_pair": ["c"]})
    assert encode_texts(pair, bare(sep_token="b", eos_token="d"), 8).input_ids[0].tolist() == [4, 5, 7, 6]


def test_models_without_segments() -> None:
    found = encode_texts(pa.table({"text": ["a b", "c"]}), bare(), 4)
    assert [row.tolist() for row in found.input_ids] == [[4, 5], [6]]
    assert found.token_type_ids is None
    assert found.truncated == 0


def test_more_rows_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.modelling.encoding.BATCH", 2)
    texts = ["a", "b", "c", "a b c d", "d"]
    found = encode_texts(pa.table({"text": texts}), bert(), 4)
    assert [row[1] for row in found.input_ids] == [4, 5, 6, 4, 7]
    assert found.truncated == 1


def test_a_text_without_tokens() -> None:
    with pytest.raises(TaskError, match="row 1: the tokenizer finds no token"):
        encode_texts(pa.table({"text": ["a", " "]}), bare(), 4)


def images(*arrays: Any) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([to_png(np.asarray(array, dtype=np.uint8)) for array in arrays])])


def preprocessor(size: int, mean: list[float], std: list[float], channels: int | None = None) -> Any:
    channels = len(mean) if channels is None else channels
    return SimpleNamespace(kind="image", tokenizer=None, size=size, channels=channels, mean=mean, std=std)


def test_images_are_kept_as_they_are_with_what_normalises_them() -> None:
    found = encode_images(images([[0, 255], [51, 102]]), preprocessor(2, [0.2], [0.4]))
    assert found.pixels.tolist() == [[[[0, 255], [51, 102]]]]
    assert found.pixels.dtype == np.uint8
    assert (found.mean, found.std) == ([0.2], [0.4])


def test_grey_becomes_three_equal_channels() -> None:
    found = encode_images(images([[51]]), preprocessor(1, [0.0, 0.1, 0.2], [1.0, 0.5, 0.1]))
    assert found.pixels[0, :, 0, 0].tolist() == [51, 51, 51]


def test_colour_becomes_grey_by_luminance() -> None:
    found = encode_images(images([[[255, 0, 0]]], [[[0, 255, 0]]]), preprocessor(1, [0.0], [1.0]))
    assert np.allclose(found.pixels.ravel() / 255, [0.299, 0.587], atol=2e-3)  # ITU-R 601, rounded to 8 bits


def test_channels_come_first() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    found = encode_images(images(pixels), preprocessor(2, [0.0] * 3, [1.0] * 3))
    np.testing.assert_array_equal(found.pixels[0], pixels.transpose(2, 0, 1))


def test_other_sizes_are_resized_bilinearly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    found = encode_images(images(pixels, np.full((3, 3), 9)), preprocessor(4, [0.0], [1.0]))
    expected = np.asarray(Image.fromarray(pixels).resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found.pixels[0, 0], expected)
    assert (found.pixels[1] == 9).all()


def test_pixels_that_take_too_much_memory_are_in_a_file(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """4 pixels and the 2 further ones each take more than half of 7 bytes, or not; what they are does not change."""
    caplog.set_level(logging.INFO)
    given = images([[1, 2], [3, 4]]), preprocessor(2, [0.0], [1.0])
    plain = encode_images(*given)
    assert not isinstance(plain.pixels, np.memmap)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=7))
    filed = encode_images(*given)
    assert isinstance(filed.pixels, np.memmap)
    assert "of pixels are kept in a file in" in caplog.text
    assert filed.pixels.tolist() == plain.pixels.tolist()
    both = filed.followed_by(plain)
    assert isinstance(both.pixels, np.memmap)
    assert both.pixels.tolist() == plain.pixels.tolist() * 2
    assert torch.from_numpy(both.pixels)[1].tolist() == plain.pixels[0].tolist()
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8))
    assert not isinstance(encode_images(*given).pixels, np.memmap)


def test_views_are_followed_view_by_view() -> None:
    one, other = (np.full((2, rows, 1, 1, 1), rows, dtype=np.uint8) for rows in (3, 1))
    one[1], other[1] = 30, 10
    found = EncodedImages(one, [0.5], [0.5]).followed_by(EncodedImages(other, [0.5], [0.5]))
    assert found.pixels.reshape(2, -1).tolist() == [[3, 3, 3, 1], [30, 30, 30, 10]]


@pytest.mark.parametrize(
    ("channels", "mean", "std"), [(4, [0.5] * 4, [0.5] * 4), (3, [0.5], [0.5] * 3), (1, [0.5], [0.0])]
)
def test_a_preprocessor_that_cannot_be(channels: int, mean: list[float], std: list[float]) -> None:
    with pytest.raises(TaskError, match=f"found {channels} channels.*correct its preprocessor_config.json"):
        encode_images(images([[0]]), preprocessor(1, mean, std, channels))
