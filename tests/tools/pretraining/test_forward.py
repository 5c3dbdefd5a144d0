"""The fast path against the model's own full forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tools.pretraining.samples import FAMILIES, make_trainer
from tools.pretraining.forward import prediction_loss
from tools.pretraining.masking import MASKING, batch_at


@pytest.mark.parametrize("short_tokens", [0, 128])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_has_the_loss_and_gradients_of_the_full_forward(family, layers, short_tokens, tokenizers):
    trainer = make_trainer(family, tokenizers, layers=layers, short_tokens=short_tokens)
    for parameter in trainer.model.parameters():  # no zero biases or one-valued scales to hide behind
        torch.nn.init.normal_(parameter, std=0.3)
    asked = trainer.ask(batch_at(trainer.training, trainer.recipe, 0), MASKING, 0)

    fast = prediction_loss(trainer.model, asked)
    fast.backward()
    gradients = {name: x.grad.clone() for name, x in trainer.model.named_parameters()}

    trainer.model.zero_grad()
    logits = trainer.model(input_ids=asked.inputs).logits
    chosen = torch.stack([logits[row, places] for row, places in enumerate(asked.positions)])
    full = F.cross_entropy(chosen.flatten(0, 1), asked.labels.flatten())
    full.backward()

    torch.testing.assert_close(fast, full, atol=1e-5, rtol=1e-5)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-5, msg=name)


def test_gpt2_estimate_is_unbiased(tokenizers):
    """The mean over many draws of positions approaches the loss at all positions."""
    trainer = make_trainer("gpt2", tokenizers, predict_fraction=0.25)
    batch = batch_at(trainer.training, trainer.recipe, 0)
    with torch.no_grad():
        draws = [prediction_loss(trainer.model, trainer.ask(batch, MASKING, i)).item() for i in range(300)]
        ids = torch.from_numpy(batch)
        logits = trainer.model(input_ids=ids).logits[:, :-1]
        full = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()
    assert abs(np.mean(draws) - full) < 4 * np.std(draws) / np.sqrt(len(draws))
