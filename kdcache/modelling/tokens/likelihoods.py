"""Run a trained language model over packed sequences: how likely it holds every token, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from kdcache.logits.tokens.inputs import Sequences, model_inputs, padded
from kdcache.modelling.tokens.packing import Packed

PIECE = 1 << 24  # log-probabilities that are worked on at once


@dataclass(frozen=True)
class Likelihoods:
    """Of every predicted token [T], in the order of sequences and positions.

    Args:
        nll: float32, -log of the probability of the token, in nats.
        confidence: float32, the largest probability; right: bool, whether it is the token's.
    """

    nll: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    right: npt.NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: list[Likelihoods]) -> Likelihoods:
        """One after the other."""
        columns = zip(*((part.nll, part.confidence, part.right) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


def inputs_of(sequences: Sequences, device: Any) -> dict[str, Tensor]:
    """Sequences as a model of transformers takes them, on a device."""
    return {name: torch.from_numpy(values).to(device) for name, values in model_inputs(sequences).items()}


def token_likelihoods(model: torch.nn.Module, packed: Packed, batch_size: int) -> Likelihoods:
    """What a model says of every predicted token, on every process; in float32, whatever it was trained in.

    A probability is one of all outputs, also of those that stand for no token, as in training.
    """
    state = PartialState()
    network = model.to(state.device).eval()
    starts = range(0, len(packed), batch_size)
    mine = list(starts[state.process_index :: state.num_processes])
    found = [
        _of_batch(network, packed.sequences.part(np.arange(start, min(start + batch_size, len(packed)))))
        for start in mine
    ]
    if state.num_processes > 1:
        mine, found = gather_object(mine), gather_object(found)
    in_order = dict(zip(mine, found, strict=True))
    return Likelihoods.joined([in_order[start] for start in starts])


def _of_batch(network: Any, sequences: Sequences) -> Likelihoods:
    device = PartialState().device
    length = int(sequences.tokens.lengths.max())
    tokens, loss = (padded(column.rows(), length) for column in (sequences.tokens, sequences.loss))
    at = torch.from_numpy(np.flatnonzero(loss[:, 1:])).to(device)
    labels = torch.from_numpy(tokens[:, 1:].reshape(-1)).to(device)[at]
    with torch.no_grad():
        logits = network(**inputs_of(sequences, device)).logits[:, :-1].reshape(len(loss) * (length - 1), -1)
        step = max(PIECE // logits.shape[1], 1)
        pieces = [
            _of_positions(logits[where].float(), label)
            for where, label in zip(torch.split(at, step), torch.split(labels, step), strict=True)
        ]
    return Likelihoods.joined(pieces)


def _of_positions(logits: Tensor, labels: Tensor) -> Likelihoods:
    logs = logits.log_softmax(1)
    largest, token = logs.max(1)
    nll = -logs.gather(1, labels[:, None])[:, 0]
    columns = (nll, largest.exp(), token == labels)
    return Likelihoods(*(column.cpu().numpy() for column in columns))
