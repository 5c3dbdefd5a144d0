"""What a model says of every token of packed documents is what it says of each document alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.errors import ModelError
from kdcache.modelling.tokens.building import build_causal_model, load_tokenizer
from kdcache.modelling.tokens.likelihoods import token_likelihoods
from kdcache.modelling.tokens.packing import pack
from tests.tiny_models import card, save_checkpoint

DOCUMENTS = [[7, 9, 11, 9], [15], [21, 22, 23, 24, 25, 26]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("lm") / "gpt2", "gpt2", kind="LMHeadModel", n_layer=2)


def test_documents_in_one_sequence_do_not_see_each_other(folder: Path) -> None:
    model = build_causal_model(Checkpoint(folder), card(max_length=32), seed=0).eval()
    found = token_likelihoods(model, pack([np.array(d) for d in DOCUMENTS], 0, 32), batch_size=2)
    nll, sure, right = [], [], []
    for document in DOCUMENTS:  # one at a time, and in plain steps
        tokens = torch.tensor([0, *document, 0])
        with torch.no_grad():
            logs = model(tokens[None, :-1]).logits[0].log_softmax(1)
        nll += [-float(logs[at, token]) for at, token in enumerate(tokens[1:])]
        sure += logs.exp().max(1).values.tolist()
        right += [int(row.argmax()) == int(token) for row, token in zip(logs, tokens[1:], strict=True)]
    np.testing.assert_allclose(found.nll, nll, rtol=1e-5)
    np.testing.assert_allclose(found.confidence, sure, rtol=1e-5)
    assert found.right.tolist() == right


def test_batches_change_nothing(folder: Path) -> None:
    model = build_causal_model(Checkpoint(folder), card(max_length=32), seed=0)
    packed = pack([np.array(d) for d in DOCUMENTS], 0, 4)
    one, several = (token_likelihoods(model, packed, batch_size=size) for size in (1, 3))
    np.testing.assert_allclose(one.nll, several.nll, rtol=1e-5)
    assert len(one.nll) == sum(len(document) + 1 for document in DOCUMENTS)


def test_a_start_from_scratch_follows_the_seed_alone(folder: Path) -> None:
    first, second, other = (
        build_causal_model(Checkpoint(folder, "scratch", layers=1), card(), seed).state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["transformer.wte.weight"], other["transformer.wte.weight"])
    assert "transformer.h.1.ln_1.weight" not in first  # one layer of two


def test_a_model_that_sees_the_next_token_is_refused(tmp_path: Path) -> None:
    bert = save_checkpoint(tmp_path / "bert", "bert")
    with pytest.raises(ModelError, match="does not predict a token from those before it"):
        load_tokenizer(Checkpoint(bert), card())


def test_sequences_longer_than_the_model_takes_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="positions for 32 tokens"):
        build_causal_model(Checkpoint(folder), card(max_length=64), seed=0)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "gpt2", "gpt2", kind="LMHeadModel", n_layer=1)
    settings = (folder / "config.json").read_text().replace('"n_layer": 1', '"n_layer": 2')
    (folder / "config.json").write_text(settings)
    with pytest.raises(ModelError, match="weights of the language model are missing"):
        build_causal_model(Checkpoint(folder), card(), seed=0)
