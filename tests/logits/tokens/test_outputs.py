"""Logits a few positions at a time: of the head alone where that is the model, else of the whole model."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kdcache.logits.tokens import Threshold, write_token_logits
from kdcache.logits.tokens.outputs import Outputs, in_two

from .conftest import sequences

SIZES = {"n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}


def network(kind: type = transformers.GPT2LMHeadModel, vocabulary: int = 150) -> Any:
    torch.manual_seed(0)
    return kind(transformers.GPT2Config(vocab_size=vocabulary, **SIZES)).eval()


class Capped(transformers.GPT2LMHeadModel):
    """Its logits are not the head's."""

    def forward(self, *args: Any, **inputs: Any) -> Any:
        output = super().forward(*args, **inputs)
        output.logits = 30 * torch.tanh(output.logits / 30)
        return output


def parts(model: Any) -> Any:
    inputs = {"input_ids": torch.arange(12).view(2, 6)}
    with torch.inference_mode():
        return in_two(model, inputs, model(**inputs).logits)


def test_a_model_that_is_body_and_head():
    model = network()
    found = parts(model)
    assert (found.body, found.head) == (model.transformer, model.lm_head)


@pytest.mark.parametrize(
    "model",
    [network(Capped), torch.compile(network()), torch.nn.DataParallel(network()), lambda input_ids: None],
    ids=["capped", "compiled", "wrapped", "callable"],
)
def test_what_is_run_as_a_whole(model):
    logits = torch.zeros(2, 6, 150)
    if isinstance(model, Capped):
        with torch.inference_mode():
            logits = model(input_ids=torch.arange(12).view(2, 6)).logits
    with torch.inference_mode():
        assert in_two(model, {"input_ids": torch.arange(12).view(2, 6)}, logits) is None


@pytest.mark.parametrize("step", [1, 7, 300, 1000])
def test_pieces(step):
    """As many positions at a time as asked for, whatever the head gets at once; no others are made."""
    torch.manual_seed(0)
    values, head = torch.randn(3, 200, 8), torch.nn.Linear(8, 20)
    places = torch.arange(1, 600, 2)
    with torch.inference_mode():
        logits = head(values)
        expected = logits.flatten(0, 1)[places]
        asked = []

        def counted(chosen: torch.Tensor) -> torch.Tensor:
            asked.append(len(chosen))
            return head(chosen)

        for found in (Outputs(values, counted), Outputs(logits.double())):
            pieces = list(found.pieces(places, step))
            assert [len(piece) for piece in pieces[:-1]] == [step] * (len(pieces) - 1)
            np.testing.assert_allclose(torch.cat(pieces), expected, atol=1e-6)
            assert pieces[0].dtype == torch.float32
    assert sum(asked) == len(places)


def test_no_places_no_pieces():
    assert list(Outputs(torch.zeros(2, 3, 5)).pieces(torch.zeros(0, dtype=torch.int64), 4)) == []


def test_a_capped_model_is_cached_as_it_is(tmp_path):
    """The cache of a model whose head alone would give other numbers has the model's."""
    rows = sequences(6)
    for name, model in (("whole", network(Capped)), ("parts", network())):
        with torch.no_grad():
            model.lm_head.weight *= 400
        cache = write_token_logits(model, rows, tmp_path / name, Threshold(1 / 8))
        ids = torch.tensor([rows[2]["input_ids"]])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(1)
        expected = logprobs.gather(1, ids[0, 1:, None])[:, 0]
        np.testing.assert_allclose(cache.batch([2]).label_logprob[0], expected, rtol=2e-3, atol=1e-3)
