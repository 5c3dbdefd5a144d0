"""Train one language model by one method: its sequences, what it learns from at each token, its start, the loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from kdcache.errors import TrialError
from kdcache.modelling.adapting import merged, to_be_trained
from kdcache.modelling.tokens.building import build_causal_model
from kdcache.modelling.tokens.inputs import DocumentInputs
from kdcache.study import Model, Regularizer
from kdcache.training.loop import Training
from kdcache.training.tokens.loop import fine_tune_tokens
from kdcache.training.tokens.losses import make_token_loss
from kdcache.training.tokens.targets import cached_targets, hard_targets
from kdcache.training.watching import NOBODY, Watch


def learn_tokens(
    inputs: DocumentInputs,
    model: Model,
    method: Regularizer,
    seed: int,
    soft_labels: Sequence[Path] = (),
    watch: Watch = NOBODY,
) -> tuple[torch.nn.Module, Training]:
    """Train a language model on a task by a method; everything random is drawn from the seed.

    Args:
        inputs: the task as the model takes it.
        soft_labels: the token cache to learn from, if the method needs one.
        watch: looks on, and may have a state to go on from; see `kdcache.training.loop.fine_tune`.

    Raises:
        KdcacheError: the cache is of other sequences, the model does not fit, or the loss became infinite or NaN.
    """
    packed = inputs.packed("train")
    if len(soft_labels) > 1:
        raise TrialError("several token caches have no common tokens to average; name one teacher")
    targets = hard_targets(packed, inputs.vocabulary)
    for folder in soft_labels:
        targets = cached_targets(folder, packed, inputs.vocabulary, inputs.card.fingerprint)
    network = build_causal_model(inputs.checkpoint, inputs.card, seed)
    with to_be_trained(network, model, seed) as trainee:
        trainee, run = fine_tune_tokens(trainee, packed, targets, make_token_loss(method), model, seed, watch)
    return merged(trainee), run
