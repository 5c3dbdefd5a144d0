"""Train one language model by one method: its sequences, what it learns from at each token, its start, the loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from kdcache.errors import ModelError, TrialError
from kdcache.logits.tokens.apart import mixes
from kdcache.modelling.adapting import merged, to_be_trained
from kdcache.modelling.tokens.building import build_causal_model
from kdcache.modelling.tokens.inputs import DocumentInputs
from kdcache.modelling.tokens.likelihoods import inputs_of
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
        KdcacheError: the cache is of other sequences, the model does not fit or lets documents of a sequence see each
            other, or the loss became infinite or NaN.
    """
    packed = inputs.packed("train")
    if len(soft_labels) > 1:
        raise TrialError("several token caches have no common tokens to average; name one teacher")
    targets = hard_targets(packed, inputs.vocabulary)
    for folder in soft_labels:
        targets = cached_targets(folder, packed, inputs.vocabulary, inputs.card.fingerprint)
    network = build_causal_model(inputs.checkpoint, inputs.card, seed)
    _check_apart(network, inputs, model.batch_size)
    with to_be_trained(network, model, seed) as trainee:
        trainee, run = fine_tune_tokens(trainee, packed, targets, make_token_loss(method), model, seed, watch)
    return merged(trainee), run


def _check_apart(network: torch.nn.Module, inputs: DocumentInputs, batch_size: int) -> None:
    """Refuse a model that would mix the documents of a sequence, in training or when it is scored."""
    splits = [inputs.packed(split).sequences for split in ("train", *inputs.card.evaluated)]
    packed = [sequences for sequences in splits if sequences.are_packed]
    if not packed:
        return
    longest = max(int(sequences.tokens.lengths.max()) for sequences in packed)
    rows = min(batch_size, max(map(len, packed)))
    why = mixes(
        network, lambda some: network(**inputs_of(some, "cpu")).logits, inputs.vocabulary, longest, rows
    )
    if why:
        raise ModelError(
            f"{inputs.checkpoint.folder}: {why}; language modelling puts several documents into a sequence, so take a "
            "model of another family, such as GPT-2 or Llama"
        )
