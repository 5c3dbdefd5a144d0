"""`KDTrainer`: the transformers Trainer with a cache instead of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from kdcache.errors import KdcacheError
from kdcache.hashing.content import Column
from kdcache.hf.soft_labels import (
    STARTS,
    FromLogits,
    FromTokens,
    SoftLabels,
    Target,
    document_positions,
    logits_in,
    router_loss,
)
from kdcache.logits import LogitCache
from kdcache.logits.opening import open_cache
from kdcache.logits.tokens import TokenCache
from kdcache.logits.tokens.inference import without_cache
from kdcache.logits.tokens.losses import Divergence, Tail
from kdcache.losses import IGNORED, kd_loss

# Options of one kind of cache, as they are if nobody gives them.
KINDS = {"tail": "bucket", "divergence": "kl"}
BY = {"columns": None, "label": None, "id_column": None, "hash_column": "row_hash"}


class KDTrainer(Trainer):
    """A `transformers.Trainer` that trains on labels and a cache's soft labels, without the teacher.

    Its use::

        KDTrainer(student, arguments, collator, train_dataset=rows, cache="cache", columns=["text"], label="label",
                  alpha=0.9, temperature=2.0).train()

    With a logit cache, the cache's `join` adds the logits to every row of `train_dataset` when the trainer is made. A
    row that was changed or is not in the cache is an error. With a token cache, the distributions are found by the
    tokens of every batch, and each epoch uses another draw. If the default collator is used, all rows of
    `train_dataset` are looked up in the cache when the trainer is made. This reads each row once; a stream is not read.

    The loss is `kdcache.kd_loss` or `kdcache.kd_token_loss`: a mean over all labelled rows (or predicted tokens) of an
    optimizer step, for any number of accumulated batches and processes. A row with the label -100 counts for nothing.
    A mixture of experts with `output_router_logits` has its `aux_loss` added, as in its own loss; each batch's is
    weighted by its share of the step's tokens.
    Evaluation needs no logits: `eval_loss` is the plain cross-entropy, for any alpha.

    Args:
        model, args, data_collator, train_dataset, eval_dataset: as for the Trainer. `train_dataset` must have the
            columns that `columns` and `label` name. The Trainer drops them after the join. For a token cache the
            default collator pads `input_ids` on the right and makes the `labels`.
        cache: a logit cache or a token cache, or its folder. None: the rows have `teacher_logits` already (they were
            joined before, or are a `kdcache.AugmentedDataset`).
        split: the cache's split that the rows come from.
        alpha: the weight of the distillation term, from 0 to 1.
        temperature: default: the cache's own temperature, which is 1 for raw logits.
        tail, divergence: of a token cache alone, see `kdcache.kd_token_loss`.
        columns, label, id_column, hash_column: how to tell the rows of a logit cache apart, see `LogitCache.join`.
        options: all other options of the Trainer.

    Raises:
        KdcacheError: the cache cannot be opened, the rows differ from the cached rows, the cache does not serve the
            loss, an option has no meaning for this cache, an option of the Trainer asks for another loss, or rows have
            several documents and the model does not keep them apart. In training: a sequence is not in the cache, or
            `position_ids` do not begin anew exactly where documents start.
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[..., Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *,
        cache: LogitCache | TokenCache | str | Path | None,
        split: str = "train",
        alpha: float = 0.5,
        temperature: float | None = None,
        tail: Tail = "bucket",
        divergence: Divergence = "kl",
        columns: Sequence[Column] | None = None,
        label: Column | None = None,
        id_column: Column | None = None,
        hash_column: Column | None = "row_hash",
        **options: Any,
    ) -> None:
        kinds = {"tail": tail, "divergence": divergence}
        by = {"columns": columns, "label": label, "id_column": id_column, "hash_column": hash_column}
        self._soft = _soft_labels(cache, split, alpha, temperature, kinds, by)
        args = TrainingArguments("tmp_trainer") if args is None else args  # the Trainer's own default
        _check_arguments(args)
        if data_collator is None and train_dataset is not None:
            self._soft.check_rows(train_dataset)
        super().__init__(
            model,
            args,
            data_collator or self._soft.collator,
            self._soft.joined(train_dataset),
            eval_dataset,
            compute_loss_func=self._loss,
            **options,
        )
        self._rows_tried = 0  # rows of the largest batch in which the model was seen to keep documents apart
        if train_dataset is not None and not self.is_deepspeed_enabled:  # it may have divided the weights
            self._check_apart(self._soft.longest_packed, self.args.per_device_train_batch_size)

    def _check_apart(self, longest: int, rows: int) -> None:
        """Refuse a model that lets documents of a row, of up to `longest` tokens, see each other. It is tried once."""
        if min(rows, 2) <= self._rows_tried or not longest:
            return
        why = self._soft.mixing(self.model, longest, rows)
        if why:
            raise KdcacheError(
                f"{why}; train on rows of one document each, or take a model of another family, such as GPT-2 or Llama"
            )
        self._rows_tried = min(rows, 2)

    def _set_signature_columns_if_needed(self) -> None:
        """Set the columns that are not dropped: those that the model takes, and those that the loss needs."""
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        columns += [name for name in self._soft.keys if name not in columns]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """As in the Trainer, but `_loss` gets the batch's target instead of its labels."""
        rest = self._model_inputs(inputs)
        if model.training:
            target = self._soft.target(inputs, epoch=int(self.state.epoch or 0))
        else:
            target = self._soft.plain_target(inputs)
        return super().compute_loss(model, {**rest, "labels": target}, return_outputs, num_items_in_batch)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """As in the Trainer, but of the items of this loss.

        The Trainer counts each row's first label or not, as the model's own loss does. So it gets the items' labels in
        a form in which the first counts for nothing.
        """
        counted = [self._countable(batch) for batch in batch_samples]
        return super()._get_num_items_in_batch(counted, device)

    def _countable(self, batch: Any) -> Any:
        if not isinstance(batch, Mapping) or not isinstance(batch.get("labels"), Tensor):
            return batch  # not counted, or refused by the loss
        return {"labels": F.pad(self._soft.counted(batch).flatten(), (1, 0), value=IGNORED)}

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *options: Any, **more: Any) -> Any:
        """As in the Trainer. Without labels it calls the model itself, so it gets what the model takes."""
        labelled = self.label_names and all(inputs.get(name) is not None for name in self.label_names)
        given = inputs if labelled else self._model_inputs(inputs)
        return super().prediction_step(model, given, *options, **more)

    def _model_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The batch without the keys of the loss. A language model keeps the documents of a row apart."""
        if STARTS in inputs:
            rows, length = inputs["input_ids"].shape
            self._check_apart(length, rows)
            inputs = {**inputs, **document_positions(inputs)}
        apart = without_cache(self.model) if isinstance(self._soft, FromTokens) else {}
        left_out = {*self._soft.keys, *(["attention_mask"] if STARTS in inputs else [])}
        return {**{name: value for name, value in inputs.items() if name not in left_out}, **apart}

    def _loss(self, outputs: Any, target: Target, num_items_in_batch: Any = None) -> Tensor:
        """The batch's part of the mean over an optimizer step's items. Its own mean if their number is unknown, or 0.

        The experts of a mixture are balanced in training; `eval_loss` stays the plain cross-entropy.
        """
        mean, items = target(logits_in(outputs))
        model: Any = self.model
        if model.training:
            mean = mean + router_loss(outputs, model)
        return mean * items / num_items_in_batch if num_items_in_batch else mean


def _check_arguments(args: TrainingArguments) -> None:
    """Refuse arguments of the Trainer that ask for another loss."""
    if args.label_smoothing_factor:
        raise KdcacheError(
            f"label_smoothing_factor={args.label_smoothing_factor}: the loss has soft labels already, "
            "those of the cache; leave it at 0"
        )
    if args.use_liger_kernel:
        raise KdcacheError(
            "use_liger_kernel=True: Liger's fused loss never makes the logits, which distillation compares with the "
            "teacher's; leave it at False"
        )
    if args.n_gpu > 1:
        raise KdcacheError(
            f"{args.n_gpu} GPUs in one process (torch's DataParallel), which would not scale the loss "
            "rightly; start one process a GPU with torchrun or accelerate launch, or set CUDA_VISIBLE_DEVICES=0"
        )
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise KdcacheError(
            f"average_tokens_across_devices=False with {args.world_size} processes: each process would divide by its "
            "own number of tokens, so tokens would not weigh the same; leave it at True"
        )


def _soft_labels(
    cache: LogitCache | TokenCache | str | Path | None,
    split: str,
    alpha: float,
    temperature: float | None,
    kinds: Mapping[str, Any],
    by: Mapping[str, Any],
) -> SoftLabels:
    """The soft labels of a cache. Options that it does not serve are refused here, not in the first step."""
    opened = open_cache(cache) if isinstance(cache, str | Path) else cache
    if isinstance(opened, TokenCache):
        _refuse_others(by, BY, "a token cache, whose rows are known by their tokens")
        return FromTokens(opened, split, alpha, temperature, **kinds)
    _refuse_others(kinds, KINDS, "logits, which have every class")
    tau = 1.0 if temperature is None else temperature
    _check_numbers(alpha, tau)
    return FromLogits(opened, split, alpha, tau, by)


def _refuse_others(given: Mapping[str, Any], defaults: Mapping[str, Any], what: str) -> None:
    """Refuse options of the other kind of cache."""
    others = [name for name, value in given.items() if value != defaults[name]]
    if others:
        raise KdcacheError(f"{', '.join(others)}: without a meaning for {what}; leave it out")


def _check_numbers(alpha: float, temperature: float) -> None:
    """Refuse numbers that no loss has: that of one row with two classes says so itself."""
    row = torch.zeros(1, 2)
    kd_loss(row, torch.zeros(1, dtype=torch.int64), row, alpha=alpha, temperature=temperature)
