"""Trained tokenizers: the same from the same texts, lowercasing, and with the family's special tokens."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from tests.tools.pretraining.samples import FAMILIES, TEXTS, recipe
from tools.pretraining import PretrainingError, tokenizer_training, train_tokenizer
from tools.pretraining.tokenizer_training import prepare_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_it_depends_on_the_texts_alone(family, tokenizers):
    again = train_tokenizer(family, TEXTS, 300, 16)
    assert again.get_vocab() == tokenizers[family].get_vocab()
    assert len(again) == 300


@pytest.mark.parametrize(
    ("family", "one", "two"),
    [
        ("bert", "[CLS] the fox [SEP]", "[CLS] the fox [SEP] the dog [SEP]"),
        ("roberta", "<s> the fox</s>", "<s> the fox</s></s> the dog</s>"),
        ("gpt2", " the fox", " the fox the dog"),
    ],
)
def test_saved_it_lowercases_and_has_the_familys_templates(family, one, two, saved, tokenizers):
    tokenizer = AutoTokenizer.from_pretrained(saved / family)
    assert tokenizer.decode(tokenizer("The FOX")["input_ids"]) == one
    pair = tokenizer("The fox", "the DOG")
    assert tokenizer.decode(pair["input_ids"]) == two
    assert pair["input_ids"] == tokenizers[family]("The fox", "the DOG")["input_ids"]
    if family == "bert":
        ids = pair["input_ids"]
        assert pair["token_type_ids"] == [0] * (ids.index(3) + 1) + [1] * (len(ids) - ids.index(3) - 1)


def test_that_of_another_family_or_size_is_refused(saved, tmp_path):
    with pytest.raises(PretrainingError, match="a bert tokenizer needs cls_token, sep_token, mask_token"):
        prepare_tokenizer(recipe("bert"), TEXTS, tmp_path, saved / "gpt2")
    train_tokenizer("bert", TEXTS, 320, 16).save_pretrained(tmp_path / "wide")
    with pytest.raises(PretrainingError, match="expected at most vocab_size = 300 tokens, found 320"):
        prepare_tokenizer(recipe("bert"), TEXTS, tmp_path, tmp_path / "wide")


def test_it_is_trained_once_and_again_where_texts_or_recipe_are_others(tmp_path, monkeypatch):
    trained = []

    def spy(family, texts, vocab_size, max_length):
        trained.append((family, len(texts), vocab_size, max_length))
        return train_tokenizer(family, texts, vocab_size, max_length)

    monkeypatch.setattr(tokenizer_training, "train_tokenizer", spy)
    first = prepare_tokenizer(recipe("bert"), TEXTS, tmp_path)
    assert prepare_tokenizer(recipe("bert"), TEXTS, tmp_path).get_vocab() == first.get_vocab()
    assert trained == [("bert", 300, 300, 16)]

    others = [text.replace("fox", "wolf") for text in TEXTS]
    assert "wolf" in prepare_tokenizer(recipe("bert"), others, tmp_path).get_vocab()
    assert len(prepare_tokenizer(recipe("bert", vocab_size=320), others, tmp_path)) == 320
    longer = recipe("bert", vocab_size=320, sequence_length=32)
    assert prepare_tokenizer(longer, others, tmp_path).model_max_length == 32
    other_family = recipe("gpt2", vocab_size=320, sequence_length=32)
    assert prepare_tokenizer(other_family, others, tmp_path).eos_token == "<|endoftext|>"
    assert len(trained) == 5


def test_one_without_a_digest_is_not_trusted(tmp_path):
    train_tokenizer("bert", ["nothing but this"], 300, 16).save_pretrained(tmp_path / "tokenizer")
    assert "fox" in prepare_tokenizer(recipe("bert"), TEXTS, tmp_path).get_vocab()
