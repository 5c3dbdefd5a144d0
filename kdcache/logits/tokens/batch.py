"""A batch of a token cache, for a training loop: the tokens, and the teacher's target at each position, as entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError
from kdcache.logits.tokens.estimators import Estimator
from kdcache.logits.tokens.format import TokenHeader
from kdcache.logits.tokens.inputs import Sequences, model_inputs, padded
from kdcache.logits.tokens.rows import TokenRows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """n sequences of at most L tokens and the targets at their P = n (L - 1) positions, as tensors on one device."""

    ids: npt.NDArray[np.int64]  # [n], the cache's row ids
    tokens: Tensor  # int64 [n, L], padded with zeros
    attention_mask: Tensor  # int64 [n, L]
    loss: Tensor  # bool [n, L - 1]: whether the next token is to be predicted
    position: Tensor  # int64 [E]: each entry's position, from 0 to P - 1, ascending
    token: Tensor  # int64 [E]: each entry's token
    weight: Tensor  # float32 [E]: each entry's weight; a position's weights sum to one, except with top-k
    entropy: Tensor  # float32 [n, L - 1]: the teacher's entropy
    label_logprob: Tensor  # float32 [n, L - 1]: the teacher's log-probability of the true next token
    full: Tensor | None  # float32 [n, L - 1, V]: log-probabilities from a full cache, which has no entries
    estimator: Estimator
    vocabulary: int
    temperature: float
    # What a model is called with: `student(**batch.inputs, use_cache=False)`. Like what the teacher got: `input_ids`,
    # and `position_ids` where a row has several documents, or else `attention_mask` where rows are padded.
    inputs: Mapping[str, Tensor] = field(default_factory=dict)  # int64 [n, L] each

    @property
    def labels(self) -> Tensor:
        """The next tokens [n, L - 1]."""
        return self.tokens[:, 1:]

    def to(self, device: Any) -> Self:
        """The same batch on a device."""
        moved = {
            one.name: value.to(device)
            for one in fields(self)
            if hasattr(value := getattr(self, one.name), "to")
        }
        return replace(self, **moved, inputs={name: value.to(device) for name, value in self.inputs.items()})

    def dense(self) -> Tensor:
        """The targets as probabilities [n, L - 1, V]; zeros where nothing is to be predicted."""
        import torch

        n, positions = self.loss.shape
        if self.full is not None:
            return self.full.exp() * self.loss[..., None]
        target = torch.zeros(n * positions * self.vocabulary, device=self.weight.device)
        target.index_add_(0, self.position * self.vocabulary + self.token, self.weight)
        return target.view(n, positions, self.vocabulary)


def batch_of(rows: TokenRows, header: TokenHeader, epoch: int = 0, length: int | None = None) -> TokenBatch:
    """The rows as a batch, with draw `epoch` modulo the number of draws.

    Args:
        length: pad to this many tokens; default: the length of the longest row.

    Raises:
        CacheError: a row is longer than `length`.
    """
    import torch

    column, lengths = rows.columns, rows.columns["tokens"].lengths
    longest = max(int(lengths.max(initial=1)), length or 1)
    if length is not None and longest > length:
        raise CacheError(f"a row has {longest} tokens, more than {length}")
    sequences = Sequences(column["tokens"], column["starts"], column["loss"])
    inputs = {name: torch.from_numpy(values) for name, values in model_inputs(sequences, longest).items()}
    places = _places(lengths, longest)
    loss = padded(column["loss"].rows(), longest, np.bool_)[:, 1:]
    position, token, weight = _entries(rows, header, epoch, places)
    tables = {
        name: torch.from_numpy(padded(column[name].rows(), longest - 1, np.float32))
        for name in ("entropy", "label_logprob")
    }
    return TokenBatch(
        ids=rows.ids,
        tokens=inputs["input_ids"],
        attention_mask=torch.from_numpy(padded([np.ones(int(count)) for count in lengths], longest)),
        loss=torch.from_numpy(loss),
        position=torch.from_numpy(position),
        token=torch.from_numpy(token),
        weight=torch.from_numpy(weight),
        full=_full(rows, loss, header.vocabulary.size) if rows.shape.full else None,
        estimator=header.how,
        vocabulary=header.vocabulary.size,
        temperature=header.temperature,
        inputs=inputs,
        **tables,
    )


def _places(lengths: npt.NDArray[np.int64], longest: int) -> npt.NDArray[np.int64]:
    """For each position of the rows, its number among the batch's n (longest - 1) positions."""
    counts = lengths - 1
    first = np.repeat(np.arange(len(lengths)) * (longest - 1) - (np.cumsum(counts) - counts), counts)
    return np.asarray(first + np.arange(int(counts.sum())))


def _entries(
    rows: TokenRows, header: TokenHeader, epoch: int, places: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(position, token, weight) of all entries of a draw. A position's weights sum to one, except with top-k."""
    if rows.shape.full:
        none = np.zeros(0, np.int64)
        return none, none, np.zeros(0, np.float32)
    heads, tails = (rows.columns[name].values.astype(np.int64) for name in ("heads", "tails"))
    kept = np.exp(rows.columns["head_logprobs"].values.astype(np.float64))
    owner = np.repeat(np.arange(len(heads)), heads)
    mass = np.bincount(owner, kept, len(heads))
    if header.how.sums_to_one:
        alone = (tails == 0) | (mass >= 1)  # the head has everything (1 or more by float16's rounding)
        kept /= np.where(alone, mass, 1.0)[owner]
        mass = np.where(alone, 1.0, mass)
    else:
        kept /= np.maximum(mass, 1.0)[owner]
    share = np.divide(1 - mass, tails, out=np.zeros(len(tails)), where=tails > 0)
    ids, tail = _of_draw(rows.tail_ids(), tails, rows.shape.draws, epoch % rows.shape.draws)
    position = np.concatenate([owner, tail])
    order = np.argsort(position, kind="stable")
    weight = np.concatenate([kept, share[tail]])[order].astype(np.float32)
    return places[position[order]], np.concatenate([rows.head_ids(), ids])[order], weight


def _of_draw(
    ids: npt.NDArray[np.int64], tails: npt.NDArray[np.int64], draws: int, chosen: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(tail ids, the position of each) of one draw, taken from the tail ids of all draws."""
    owner = np.repeat(np.arange(len(tails)), tails)
    if draws == 1:
        return ids, owner
    first = np.cumsum(draws * tails) - draws * tails + chosen * tails
    within = np.arange(len(owner)) - np.repeat(np.cumsum(tails) - tails, tails)
    return ids[first[owner] + within], owner


def _full(rows: TokenRows, loss: npt.NDArray[np.bool_], vocabulary: int) -> Tensor:
    import torch

    table = np.zeros((*loss.shape, vocabulary), np.float32)
    table[loss] = rows.columns["head_logprobs"].values.reshape(-1, vocabulary)
    return torch.from_numpy(table)
