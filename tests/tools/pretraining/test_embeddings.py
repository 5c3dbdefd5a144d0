"""The sentence encoder: pooling by hand, padding that changes nothing, and a cache that is computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from kdcache.errors import ModelError
from tools.pretraining import PretrainingError, embeddings
from tools.pretraining.embeddings import SentenceEncoder, cached_embeddings, load_encoder, mean_pool, pad

PIECES = ["the quick brown fox", "a lazy dog and a quick road over then", "over the", "Quiet roads and dogs"]


def test_mean_over_the_tokens_alone():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]], [[5.0, 0.0], [1.0, 3.0], [0.0, 3.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert mean_pool(hidden, mask).tolist() == [[2.0, 3.0], [2.0, 2.0]]


def test_padding_to_the_longest_row():
    ids, mask = pad([[5], [6, 7, 8]], token=9)
    assert ids.tolist() == [[5, 9, 9], [6, 7, 8]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]


@pytest.fixture(scope="module")
def teacher(tokenizers, tmp_path_factory):
    """A random BERT of width 48: wide weights, so that texts differ clearly."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=300,
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    tokenizers["bert"].save_pretrained(folder)
    return folder


def test_embeddings_are_the_models_means_one_text_at_a_time(teacher, tokenizers):
    model = BertModel.from_pretrained(teacher).eval()
    found = SentenceEncoder(teacher)(PIECES).astype(np.float32)
    for text, embedding in zip(PIECES, found, strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([tokenizers["bert"](text)["input_ids"]])).last_hidden_state[0]
        mean = hidden.mean(dim=0).numpy()
        # bf16 keeps 8 bits: the encoder's own fp32 forward pass differs by that much
        np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean), atol=0.03)


def test_computed_once_and_resumed_by_file(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "SHARD", 2)
    _, key = cached_embeddings(teacher, PIECES[:2], tmp_path)
    (first,) = tmp_path.iterdir()
    np.save(first, np.full((2, 48), 7, np.float16))  # what is there is believed, and not computed again
    again, longer = cached_embeddings(teacher, PIECES, tmp_path)
    assert (again[:2] == 7).all()
    np.testing.assert_array_equal(again[2:], SentenceEncoder(teacher)(PIECES[2:]))
    assert longer != key
    monkeypatch.setattr(embeddings, "SentenceEncoder", None)  # a complete cache needs no encoder
    np.testing.assert_array_equal(cached_embeddings(teacher, PIECES, tmp_path)[0], again)


def test_other_pieces_or_another_encoder_have_other_files(teacher, saved, tmp_path):
    for encoder, pieces in [(teacher, PIECES), (teacher, PIECES[:2]), (saved / "bert", PIECES)]:
        cached_embeddings(encoder, pieces, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        SentenceEncoder(tmp_path)


def test_an_encoder_without_some_of_its_weights_is_refused(teacher, tmp_path):
    weights = load_file(teacher / "model.safetensors")
    (tmp_path / "config.json").write_bytes((teacher / "config.json").read_bytes())
    del weights["embeddings.word_embeddings.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PretrainingError, match=r"embeddings\.word_embeddings\.weight missing"):
        load_encoder(tmp_path)
