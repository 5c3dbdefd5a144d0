"""The targets of the Trainer's batches: the labels, and soft labels from a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.errors import CacheError
from kdcache.hashing.containers import by_position
from kdcache.logits import LogitCache
from kdcache.logits.tokens import TokenCache, kd_token_loss
from kdcache.logits.tokens.apart import mixes
from kdcache.logits.tokens.inference import model_inputs, without_cache
from kdcache.logits.tokens.inputs import KEYS, Sequences, padded, read_sequences
from kdcache.losses import IGNORED, kd_loss

# Turns the student's logits into the batch's mean loss and the number of items in it (rows with a label, or predicted
# tokens).
Target: TypeAlias = Callable[[Tensor], tuple[Tensor, Any]]
TEACHER = "teacher_logits"
POSITIONS = "position_ids"
MASKS = ("loss_mask", "attention_mask")  # 0 for tokens that are not to be predicted


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

    keys: ClassVar[tuple[str, ...]] = ("loss_mask", "document_starts")
    cache: TokenCache
    split: str
    alpha: float
    temperature: float | None

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

    def target(self, inputs: Mapping[str, Any], epoch: int) -> Target:
        """`kd_token_loss` with the draw of an epoch.

        Raises:
            CacheError: a sequence is not in the cache, or is seen by the student as several documents where the cache
                has one.
        """
        device = _labels(inputs).device
        own = {
            name: inputs[name].cpu() if hasattr(inputs[name], "cpu") else inputs[name]
            for name in (*KEYS, POSITIONS)
            if name in inputs
        }
        _check_positions(own)
        batch = self.cache.match(own, self.split, epoch=epoch).to(device)
        return lambda logits: (
            kd_token_loss(logits, batch, alpha=self.alpha, temperature=self.temperature),
            batch.loss.sum(),
        )

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

        Nor is a token predicted that `loss_mask` or `attention_mask` leaves out, as in the cache.
        """
        labels = _labels(batch)
        masks = [_mask(batch[name], labels) for name in MASKS if batch.get(name) is not None]
        for mask in masks:
            labels = labels if mask is None else labels.masked_fill(mask == 0, IGNORED)
        return labels[..., 1:]


def _mask(values: Any, labels: Tensor) -> Tensor | None:
    """A mask of tokens, in the form of the labels [n, L]; None if it is of another form, such as [n, 1, L, L]."""
    length = labels.shape[-1]
    if not isinstance(values, Tensor):
        values = torch.from_numpy(padded([np.asarray(row)[:length] for row in values], length))
    return values.to(labels.device) if values.shape == labels.shape else None


def _check_positions(batch: Mapping[str, Any]) -> None:
    """Refuse positions that begin anew where no document starts.

    From there on the student would not see the tokens before, which the teacher has seen.

    Raises:
        CacheError: there are such positions. The message has the first.
    """
    positions = batch.get(POSITIONS)
    if not isinstance(positions, Tensor) or positions.ndim != 2:  # some families have three for each token
        return
    sequences = read_sequences("a batch", batch)
    table = positions.expand(len(sequences), -1).numpy()
    pairs = zip(sequences.starts.rows(), sequences.tokens.lengths, strict=True)
    for number, (starts, length) in enumerate(pairs):
        anew = np.flatnonzero(np.diff(table[number, :length]) != 1) + 1  # the rest is padding
        unnamed = np.setdiff1d(anew, starts)
        if len(unnamed):
            raise CacheError(
                f"a batch, row {number}: position_ids begin anew at position {unnamed[0]}, but there are no "
                "document_starts that say so, and the cache knows documents by these alone; give document_starts (the "
                "places where documents begin), to write_token_logits too"
            )


def collate_sequences(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of sequences for a causal language model: padded on the right, with `labels`, and documents kept apart.

    Args:
        rows: mappings with `input_ids`, and optionally `labels`, `loss_mask`, `attention_mask` and `document_starts`;
            see `kdcache.logits.tokens.inputs.read_sequences`.

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


def _labels(inputs: Mapping[str, Any]) -> Tensor:
    labels = inputs.get("labels")
    if not isinstance(labels, Tensor):
        raise CacheError(
            f"no `labels` in the batch, which has {list(inputs)}; the data collator must give them as one tensor"
        )
    return labels
