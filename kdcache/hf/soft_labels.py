"""The targets of the Trainer's batches: the labels, and soft labels from a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.errors import CacheError, KdcacheError
from kdcache.hashing.containers import by_position
from kdcache.logits import LogitCache
from kdcache.logits.tokens import TokenCache, kd_token_loss
from kdcache.logits.tokens.apart import mixes
from kdcache.logits.tokens.inference import without_cache
from kdcache.logits.tokens.inputs import (
    DOCUMENTS,
    KEYS,
    MASKS,
    Sequences,
    model_inputs,
    padded,
    read_sequences,
)
from kdcache.logits.tokens.losses import Divergence, Tail, check_kd
from kdcache.losses import IGNORED, kd_loss

# Turns the student's logits into the batch's mean loss and the number of items in it (rows with a label, or predicted
# tokens).
Target: TypeAlias = Callable[[Tensor], tuple[Tensor, Any]]
TEACHER = "teacher_logits"
STARTS, POSITIONS = "document_starts", "position_ids"
PIECE = 256  # rows that are compared with a cache at once
ROUTER_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef")  # names that transformers gives to one number


class SoftLabels(Protocol):
    """The source of a trainer's soft labels."""

    keys: ClassVar[tuple[str, ...]]  # keys of a batch that the model does not take

    @property
    def collator(self) -> Callable[[list[Any]], Any] | None:
        """The default collator; None for the Trainer's own."""

    @property
    def longest_packed(self) -> int:
        """How many tokens the longest row has, if there are rows with several documents; else 0."""

    def mixing(self, model: Any, longest: int, rows: int) -> str | None:
        """What is wrong, if the model lets documents of a row see each other; see `kdcache.logits.tokens.apart`."""

    def joined(self, rows: Any) -> Any:
        """The rows to train on, with soft labels if they are joined to rows."""

    def check_rows(self, rows: Any) -> None:
        """Refuse rows for the default collator that have no soft labels, if they are not joined to rows."""

    def target(self, inputs: Mapping[str, Any], epoch: int) -> Target:
        """The target of a training batch."""

    def plain_target(self, inputs: Mapping[str, Any]) -> Target:
        """The target of a batch in evaluation: its labels."""

    def counted(self, batch: Mapping[str, Any]) -> Tensor:
        """The labels of a batch's items, and -100 for what is no item. The batch has `labels` as a tensor."""


@dataclass(frozen=True)
class FromLogits:
    """Soft labels from a classifier's logits, which are a column of the rows."""

    keys: ClassVar[tuple[str, ...]] = (TEACHER,)
    collator: ClassVar[None] = None
    longest_packed: ClassVar[int] = 0
    cache: LogitCache | None
    split: str
    alpha: float
    temperature: float
    by: Mapping[str, Any]  # the arguments of `join` that say how to tell rows apart

    def mixing(self, model: Any, longest: int, rows: int) -> None:
        """Nothing: a classifier's row is one text."""

    def joined(self, rows: Any) -> Any:
        """The rows, each with its logits.

        Raises:
            CacheError: a row differs from the cached row, or the data do not give rows by position.
        """
        if rows is None or self.cache is None:
            return rows
        try:
            by_position(rows)
        except CacheError as error:
            raise CacheError(f"{self.cache.path}: train_dataset: {error}") from None
        return by_position(self.cache.join(rows, self.split, column=TEACHER, **self.by))

    def check_rows(self, rows: Any) -> None:
        """Nothing: `joined` refuses such rows."""

    def target(self, inputs: Mapping[str, Any], epoch: int) -> Target:
        """`kd_loss` of the labels and the logits, over the rows with a label."""
        labels, teacher = _labels(inputs), inputs.get(TEACHER)
        if teacher is None:
            raise CacheError(
                f"no {TEACHER!r} in the batch, which has {list(inputs)}: the data collator must keep that column"
            )
        options = {"alpha": self.alpha, "temperature": self.temperature}
        return _of_labelled(
            labels, lambda logits, kept: kd_loss(logits[kept], labels[kept], teacher[kept], **options)
        )

    def plain_target(self, inputs: Mapping[str, Any]) -> Target:
        """Cross-entropy of the rows with a label."""
        labels = _labels(inputs)
        return _of_labelled(labels, lambda logits, kept: F.cross_entropy(logits[kept].float(), labels[kept]))

    def counted(self, batch: Mapping[str, Any]) -> Tensor:
        """All labels [n]."""
        return _labels(batch)


def _of_labelled(labels: Tensor, mean: Callable[[Tensor, Tensor], Tensor]) -> Target:
    """The target of the rows with a label: the Trainer counts no others.

    Args:
        mean: computes their mean loss, from the logits of all rows and the positions of those with a label.
    """
    kept = (
        (labels != IGNORED).nonzero().squeeze(1)
    )  # positions: a GPU is waited for once, with a mask at every use

    def target(logits: Tensor) -> tuple[Tensor, Any]:
        loss = mean(logits, kept) if len(kept) else logits.sum() * 0  # 0, with a gradient
        return loss, len(kept)

    return target


@dataclass(frozen=True)
class FromTokens:
    """Soft labels from a language model's distributions. They are found by the tokens of each batch."""

    keys: ClassVar[tuple[str, ...]] = (*MASKS, *(name for name in DOCUMENTS if name != POSITIONS))
    cache: TokenCache
    split: str
    alpha: float
    temperature: float | None
    tail: Tail = "bucket"
    divergence: Divergence = "kl"

    def __post_init__(self) -> None:
        """Refuse a loss that the cache does not serve, before any step."""
        header = self.cache.manifest
        check_kd(header.how, header.temperature, self.alpha, self.temperature, self.tail, self.divergence)

    @property
    def collator(self) -> Callable[[list[Any]], Any]:
        """`collate_sequences`."""
        return collate_sequences

    @property
    def longest_packed(self) -> int:
        """The number of tokens of the cache's longest row, or 0 if no row has several documents."""
        columns = self.cache.split(self.split).columns
        if not (columns["starts"].lengths > 1).any():
            return 0
        return int(columns["tokens"].lengths.max())

    def mixing(self, model: Any, longest: int, rows: int) -> str | None:
        """What is wrong with a model that lets documents see each other in rows of up to `longest` tokens."""

        def run(sequences: Sequences) -> Tensor:
            weights = (weight.device for weight in model.parameters() if not weight.is_meta)
            device = next(weights, torch.device("cpu"))
            inputs = {
                name: torch.from_numpy(values).to(device) for name, values in model_inputs(sequences).items()
            }
            logits: Tensor = logits_in(model(**inputs, **without_cache(model)))
            return logits

        return mixes(model, run, self.cache.manifest.vocabulary.size, longest, rows)

    def joined(self, rows: Any) -> Any:
        """The rows, unchanged."""
        return rows

    def check_rows(self, rows: Any) -> None:
        """Refuse rows that are not in the cache. Each row is read and hashed once. A stream is not read.

        Raises:
            CacheError: a row is not in the cache, or cannot be used. The message names the first.
        """
        try:
            placed = by_position(rows)
        except CacheError:
            return  # its rows are seen when they are trained on
        none = np.zeros(0, np.uint64)
        hashes = [sequences.hashes for sequences in _pieces("train_dataset", placed)]
        known = np.isin(np.concatenate([none, *hashes]), self.cache.split(self.split).row_hashes)
        if not known.all():
            row = int(np.argmin(known))
            tokens = np.asarray(placed[row]["input_ids"])[:8].tolist()
            raise CacheError(
                f"{self.cache.path}: split {self.split!r} has no sequence like row {row} of train_dataset "
                f"({tokens} ...) and {int((~known).sum()) - 1} more of {len(known)}; write "
                "the cache from the rows that the trainer gets: packed, cut, masked and tokenised in the same way"
            )

    def target(self, inputs: Mapping[str, Any], epoch: int) -> Target:
        """`kd_token_loss` with the draw of an epoch.

        Raises:
            CacheError: a sequence is not in the cache, or its `position_ids` are not those of the cache's documents.
        """
        device = _labels(inputs).device
        batch = self.cache.match(_on_cpu(inputs, KEYS), self.split, epoch=epoch).to(device)
        numbers: dict[str, Any] = {"alpha": self.alpha, "temperature": self.temperature}
        kinds: dict[str, Any] = {"tail": self.tail, "divergence": self.divergence}
        return lambda logits: (kd_token_loss(logits, batch, **numbers, **kinds), batch.loss.sum())

    def plain_target(self, inputs: Mapping[str, Any]) -> Target:
        """Cross-entropy of the next tokens."""
        labels = self.counted(inputs).flatten()
        items = (labels != IGNORED).sum()

        def target(logits: Tensor) -> tuple[Tensor, Any]:
            wrong = F.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels, ignore_index=IGNORED, reduction="sum"
            )
            return wrong / items.clamp_min(1), items

        return target

    def counted(self, batch: Mapping[str, Any]) -> Tensor:
        """The labels [n, L - 1] of the tokens that are predicted: never the first, whether it has a label or not.

        Nor is a token predicted that a mask, such as `loss_mask` or `attention_mask`, leaves out, as in the cache.
        """
        labels = _labels(batch)
        names = (*MASKS, "attention_mask")
        masks = [_mask(batch[name], labels) for name in names if batch.get(name) is not None]
        for mask in masks:
            labels = labels if mask is None else labels.masked_fill(mask == 0, IGNORED)
        return labels[..., 1:]


def _mask(values: Any, labels: Tensor) -> Tensor | None:
    """A mask of tokens, in the form of the labels [n, L]; None if it is of another form, such as [n, 1, L, L]."""
    length = labels.shape[-1]
    if not isinstance(values, Tensor):
        values = torch.from_numpy(padded([np.asarray(row)[:length] for row in values], length))
    return values.to(labels.device) if values.shape == labels.shape else None


def _pieces(where: str, rows: Any) -> Iterator[Sequences]:
    """Rows by position as sequences, some at a time."""
    many = getattr(rows, "__getitems__", None)  # as torch's DataLoader reads a batch
    for first in range(0, len(rows), PIECE):
        places = range(first, min(first + PIECE, len(rows)))
        piece = many(list(places)) if many else [rows[place] for place in places]
        yield read_sequences(f"{where} from row {first} on" if first else where, piece)


def _on_cpu(batch: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Some columns of a batch, where NumPy can read them."""
    there = {name: batch[name] for name in names if name in batch}
    return {name: values.cpu() if hasattr(values, "cpu") else values for name, values in there.items()}


def document_positions(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The `position_ids` [n, L] by which a model keeps a batch's documents apart; none if each row is one document.

    Raises:
        CacheError: the batch has others. They must begin anew where `document_starts` say, and nowhere else.
    """
    ids = batch["input_ids"]
    sequences = read_sequences("a batch", _on_cpu(batch, ("input_ids", "attention_mask", *DOCUMENTS)))
    inputs = model_inputs(sequences, ids.shape[1])
    if batch.get(POSITIONS) is not None or POSITIONS not in inputs:
        return {}
    return {POSITIONS: torch.from_numpy(inputs[POSITIONS]).to(ids.device)}


def collate_sequences(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of sequences for a causal language model: padded on the right, with `labels`, and documents kept apart.

    Args:
        rows: mappings with `input_ids`, and optionally `labels`, `loss_mask`, `attention_mask` and `document_starts`;
            see `kdcache.logits.tokens.inputs.read_sequences`. `position_ids` that begin anew need `document_starts`.

    Returns:
        int64 tensors [n, L]: `input_ids` and `labels` (-100 if nothing is to be predicted). If there is padding, also
        `attention_mask`. If a row has several documents, also `position_ids`, `document_starts` (as lists) and an
        `attention_mask` that finds a row in the cache. Do not give that mask to the model: it would mix the documents.

    Raises:
        CacheError: a row cannot be used.
    """
    sequences = read_sequences("a batch", rows)
    inputs = model_inputs(sequences)
    loss = padded(sequences.loss.rows(), inputs["input_ids"].shape[1], np.bool_)
    inputs["labels"] = np.where(loss, inputs["input_ids"], IGNORED)
    batch: dict[str, Any] = {name: torch.from_numpy(values) for name, values in inputs.items()}
    if (sequences.starts.lengths > 1).any():
        masks = [np.ones(count, np.int64) for count in sequences.tokens.lengths]
        batch["attention_mask"] = torch.from_numpy(padded(masks, loss.shape[1]))
        batch["document_starts"] = [starts.tolist() for starts in sequences.starts.rows()]
    return batch


def logits_in(outputs: Any) -> Any:
    """The logits in what a model of transformers returned."""
    return outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits


def router_loss(outputs: Any, model: Any) -> Any:
    """The loss that balances a mixture of experts, as transformers adds it to the model's own loss; 0 without one.

    Models have it if `output_router_logits` is set in their config: `router_aux_loss_coef` times `aux_loss`.

    Raises:
        KdcacheError: neither the model nor its config has the weight.
    """
    loss = outputs.get("aux_loss") if isinstance(outputs, Mapping) else getattr(outputs, "aux_loss", None)
    if loss is None:
        return 0
    config = getattr(model, "config", None)
    places = (model, config, getattr(config, "text_config", None))
    weights = (getattr(place, name, None) for place in places for name in ROUTER_WEIGHTS)
    weight = next((weight for weight in weights if weight is not None), None)
    if weight is None:
        raise KdcacheError(
            f"a {type(model).__name__} gives an aux_loss, but neither it nor its config has a weight for it, as "
            f"{ROUTER_WEIGHTS[0]}; set one (0 leaves the aux_loss out)"
        )
    return weight * torch.as_tensor(loss, device=logits_in(outputs).device)


def _labels(inputs: Mapping[str, Any]) -> Tensor:
    labels = inputs.get("labels")
    if not isinstance(labels, Tensor):
        raise CacheError(
            f"no `labels` in the batch, which has {list(inputs)}; the data collator must give them as one tensor"
        )
    return labels
