"""One training: kdcache's or the transformers Trainer's, timed in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import datasets
import torch
import transformers
from accelerate import PartialState

from benchmarks.graphed import graphs
from benchmarks.training.work import LENGTH, Device, Work
from kdcache.checkpoints.find import find_checkpoint
from kdcache.logits import LogitCache
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedSplit
from kdcache.modelling.predicting import predict
from kdcache.study import Regularizer, Student
from kdcache.training.loop import fine_tune
from kdcache.training.regularizers import make_loss

WARM_UP = {"cpu": 1, "cuda": 10}  # batches; a GPU's kernels are loaded at their first use, for each shape


Precision = Literal["float32", "bfloat16"]


Padding = Literal["to 128", "by batch", "by batch, grouped"]


@dataclass(frozen=True)
class Variant:
    """Which program trains, and how."""

    who: Literal["kdcache", "kdcache KD", "kdcache with CUDA graphs", "Trainer"]
    precision: Precision
    padding: Padding = "by batch, grouped"
    loaders: int = 0  # processes that make the Trainer's batches

    @property
    def name(self) -> str:
        how = f", padded {self.padding}" if self.who == "Trainer" else ""
        loaders = f", {self.loaders} loader processes" if self.loaders else ""
        return f"{self.who}{how}, {self.precision}{loaders}"


@dataclass(frozen=True)
class Run:
    """One training: its examples (rows x epochs), seconds on the clock and of the process's CPU, and the score."""

    examples: int
    wall: float
    cpu: float
    accuracy: float


Runs = dict[Variant, list[Run]]


OURS = [Variant("kdcache", "float32"), Variant("kdcache", "bfloat16")]


PEERS = [
    Variant("Trainer", precision, padding)
    for padding in get_args(Padding)
    for precision in get_args(Precision)
]


VARIANTS = {variant.name: variant for variant in [*OURS, *PEERS]}


def run_one(work: Work, variant: Variant, seed: int, threads: int = 1) -> Run:
    """Build the model, train it and score it on validation; only the training is timed.

    Some uncounted batches come first, since loading and compiling at the first steps is no throughput.
    """
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    PartialState(cpu=work.device == "cpu")  # kdcache takes a GPU where there is one
    _ready(_warm_up(work), variant, seed)()
    train = _ready(work, variant, seed)
    _wait(work.device)
    wall, cpu = time.perf_counter(), time.process_time()
    trained = train()
    _wait(work.device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    logits = predict(trained, work.validation, work.student.batch_size)
    accuracy = float((logits.argmax(axis=1) == work.validation.labels).mean())
    return Run(len(work.train) * work.student.epochs, wall, cpu, accuracy)


def _wait(device: Device) -> None:
    """Wait until a GPU has finished all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def _warm_up(work: Work) -> Work:
    rows, train = slice(WARM_UP[work.device] * work.student.batch_size), work.train
    assert train.input_ids is not None
    types = None if train.token_type_ids is None else train.token_type_ids[rows]
    first = EncodedSplit(
        train.ids[rows], train.row_hashes[rows], train.labels[rows], train.input_ids[rows], types
    )
    return replace(work, train=first)


def _ready(work: Work, variant: Variant, seed: int) -> Callable[[], torch.nn.Module]:
    """The training, ready to be called."""
    student = work.student.model_copy(update={"precision": variant.precision})
    model = build_model(find_checkpoint(student), work.card, seed, work.preprocessor)
    prepare = _trainer if variant.who == "Trainer" else _fine_tune
    return prepare(work, student, variant, model, seed)


def _fine_tune(
    work: Work, student: Student, variant: Variant, model: torch.nn.Module, seed: int
) -> Callable[[], torch.nn.Module]:
    return lambda: _fine_tuned(work, student, variant, model, seed)


def _fine_tuned(
    work: Work, student: Student, variant: Variant, model: torch.nn.Module, seed: int
) -> torch.nn.Module:
    method, soft = Regularizer(), None
    if variant.who == "kdcache KD":
        method = Regularizer(soft_labels="teacher", alpha=0.5, temperature=2)
        soft = LogitCache(work.cache).logits("train", work.train.ids, work.train.row_hashes)
    loss = make_loss(method, work.card.classes)
    with graphs() if variant.who == "kdcache with CUDA graphs" else nullcontext():
        return fine_tune(model, work.train, loss, student, seed, soft)[0]


def _trainer(
    work: Work, student: Student, variant: Variant, model: torch.nn.Module, seed: int
) -> Callable[[], torch.nn.Module]:
    """The Trainer's training, with kdcache's optimizer, schedule, clipping and batch size."""
    grouped = variant.padding == "by batch, grouped"
    arguments = transformers.TrainingArguments(
        output_dir=str(work.cache.with_name("trainer")),
        per_device_train_batch_size=student.batch_size,
        num_train_epochs=student.epochs,
        learning_rate=student.learning_rate,
        weight_decay=student.weight_decay,
        warmup_steps=student.warmup,
        max_grad_norm=student.max_grad_norm,
        seed=seed,
        bf16=variant.precision == "bfloat16",
        use_cpu=work.device == "cpu",
        train_sampling_strategy="group_by_length" if grouped else "random",
        dataloader_pin_memory=work.device != "cpu",
        dataloader_num_workers=variant.loaders,
        dataloader_persistent_workers=variant.loaders > 0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows_of(work, padded=variant.padding == "to 128"),
        data_collator=transformers.default_data_collator
        if variant.padding == "to 128"
        else transformers.DataCollatorWithPadding(work.preprocessor.tokenizer),
    )
    trainer.remove_callback(transformers.PrinterCallback)

    def train() -> torch.nn.Module:
        trainer.train()
        return model

    return train


def rows_of(work: Work, padded: bool) -> datasets.Dataset:
    """The train rows as in run_glue after its `map`: lists of tokens, with labels (and lengths, for grouping)."""
    assert work.train.input_ids is not None
    columns: dict[str, Any] = {"input_ids": [row.tolist() for row in work.train.input_ids]}
    columns["attention_mask"] = [[1] * len(row) for row in columns["input_ids"]]
    if work.train.token_type_ids is not None:
        columns["token_type_ids"] = [row.tolist() for row in work.train.token_type_ids]
    if padded:
        padded_columns = work.preprocessor.tokenizer.pad(columns, padding="max_length", max_length=LENGTH)
        columns = {name: padded_columns[name] for name in columns}
    lengths = [len(row) for row in columns["input_ids"]]
    return datasets.Dataset.from_dict(columns | {"labels": work.train.labels.tolist(), "length": lengths})
