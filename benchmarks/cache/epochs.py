"""A student's epoch: without KD, with logits from the cache, and with the teacher in the loop.

All three use one plain PyTorch loop, and differ in where the soft logits come from. The time of an epoch does not
depend on the weights. So the teacher is not fine-tuned first, and a checkpoint without weights gets random ones.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cache.measuring import (
    Goal,
    Measurement,
    Options,
    Rates,
    at_most,
    in_child,
    peak_memory,
    rates,
    ratios,
    stated,
)
from kdcache.checkpoints.find import find_checkpoint
from kdcache.logits import LogitCache, write_logits
from kdcache.modelling.batches import Batch, Batcher, epoch_batches, pad_token, sent
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedSplit
from kdcache.modelling.inputs import Inputs
from kdcache.modelling.predicting import autocast
from kdcache.study import Model, Regularizer, Source, Task
from kdcache.tasks.card import read_card
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.training.regularizers import make_loss

BATCH, TOKENS = 32, 24  # rows of a batch; most tokens of a text; both as in the study
QUICK_ROWS = 64
PLAIN, CACHED, ONLINE = "without KD", "KD from the cache", "KD with the teacher in the loop"
VARIANTS = (PLAIN, CACHED, ONLINE)
MIB = 2**20

Soft = Callable[[Batch], Tensor]  # soft logits [B, K]


@dataclass(frozen=True)
class Pair:
    """A teacher and a student, and the task's folder."""

    name: str
    teacher: Model
    student: Model
    task: Path
    cache: Path
    device: str
    threads: int
    rows: int | None = None  # of the train split; None: all


def measure(options: Options) -> Measurement:
    """Both pairs on the built-in BBC headlines."""
    task = Task(
        source=Source(builtin="bbc_headlines"), text=["text"], metrics=["accuracy"], max_length=TOKENS
    )
    prepare_task(task, options.work / "task", "bbc-headlines")
    parts = [_measure_pair(options, *choice) for choice in _choices(options)]
    return Measurement(
        goals=[goal for part in parts for goal in part.goals],
        rates={name: timed for part in parts for name, timed in part.rates.items()},
        facts={name: fact for part in parts for name, fact in part.facts.items()},
        notes=_notes(),
    )


def _choices(options: Options) -> list[tuple[str, Path | None, Path | None, int | None, str]]:
    """(name, teacher, student, the student's layers, the message if a checkpoint is missing)."""
    teacher, student, minilm = options.teacher, options.student, options.minilm
    name = f"{teacher.name} -> {student.name}"
    return [
        (name, teacher, student, None, "pre-train the checkpoint first (python -m tools.pretrain)"),
        ("MiniLM-L6 -> its first 2 layers", minilm, minilm, 2, "say with --minilm where MiniLM-L6 is"),
    ]


def _measure_pair(
    options: Options, name: str, teacher: Path | None, student: Path | None, layers: int | None, hint: str
) -> Measurement:
    if teacher is None or student is None or not (teacher.is_dir() and student.is_dir()):
        missing = next((path.name for path in (teacher, student) if path and not path.is_dir()), "checkpoint")
        return Measurement([replace(goal, reason=f"no {missing} here: {hint}") for goal in _empty(name)])
    pair = Pair(
        name,
        _model(teacher),
        _model(student, layers),
        options.work / "task",
        options.work / re.sub(r"\W+", "-", name),
        options.device,
        options.threads,
        QUICK_ROWS if options.quick else None,
    )
    cost = write_cache(pair)
    trial, sources = Trial(pair), soft_sources(pair)
    variants = {variant: partial(trial.epoch, sources[variant]) for variant in VARIANTS}
    timed = rates(variants, 1 if options.quick else 2 * options.repeats + 1)
    peaks = {variant: in_child(peak_of_epoch, pair, variant) for variant in VARIANTS}
    return _findings(pair, timed, peaks, cost, variants[CACHED])


def _model(folder: Path, layers: int | None = None) -> Model:
    init: Any = "pretrained" if any(folder.glob("*.safetensors")) else "scratch"
    return Model(
        checkpoint=str(folder), init=init, learning_rate=1e-4, epochs=1, batch_size=BATCH, layers=layers
    )


def _titles(name: str) -> dict[str, str]:
    return {
        "plain": f"a student epoch from the cache, against one without KD ({name})",
        "online": f"a student epoch from the cache, against one with the teacher in the loop ({name})",
        "predicted": f"the same, predicted from floating-point operations ({name})",
        "memory": f"peak memory of an epoch from the cache, against the teacher in the loop ({name})",
    }


def _empty(name: str) -> list[Goal]:
    titles = _titles(name)
    return [Goal(title, "at most 1.02" if key == "plain" else "") for key, title in titles.items()]


def _findings(
    pair: Pair, timed: Rates, peaks: dict[str, int], cost: float, profile: Callable[[], int]
) -> Measurement:
    """Ratios of times (not of rows/s): above 1 is slower."""
    titles, flops = _titles(pair.name), count_flops(pair)
    goals = [
        at_most(titles["plain"], 1.02, ratios(timed, PLAIN, CACHED), profile, "x the time"),
        stated(titles["online"], ratios(timed, ONLINE, CACHED), "x the time"),
        stated(titles["predicted"], [_predicted(flops)], "x the time"),
        stated(titles["memory"], [peaks[CACHED] / peaks[ONLINE]], "x the memory"),
    ]
    facts = {
        f"{pair.name}: peak memory in MiB": {variant: peak / MIB for variant, peak in peaks.items()},
        f"{pair.name}: GFLOP of an epoch's forward passes": {k: v / 1e9 for k, v in flops.items()},
        f"{pair.name}: seconds to write the cache": cost,
        f"{pair.name}: epochs after which the cache has paid": _break_even(timed, cost, _rows(pair)),
    }
    return Measurement(goals, {f"student's epoch, {pair.name}, rows/s": timed}, facts)


def _predicted(flops: dict[str, float]) -> float:
    """The ratio that operations predict: a backward pass has twice those of a forward pass; a teacher has none."""
    return 3 * flops["student"] / (3 * flops["student"] + flops["teacher"])


def _break_even(timed: Rates, cost: float, rows: int) -> float | None:
    """The epochs after which the time saved against online KD exceeds writing; None if an epoch saves nothing."""
    seconds = {name: rows / statistics.median(values) for name, values in timed.items()}
    saving = seconds[ONLINE] - seconds[CACHED]
    return cost / saving if saving > 0 else None


class Trial:
    """A student that is trained on a task's train split."""

    def __init__(self, pair: Pair) -> None:
        self.device = torch.device(pair.device)
        self.split = load_split(pair, pair.student)
        self.model = load_model(pair, pair.student)
        self.batches = Batcher(self.split, pad_token(self.model), self.device)
        self.labels = torch.from_numpy(self.split.labels).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        classes = read_card(pair.task).classes
        self.hard = make_loss(Regularizer(), classes)
        self.kd = make_loss(Regularizer(soft_labels="teacher", alpha=0.9, temperature=2.0), classes)

    def epoch(self, source: Callable[[], Soft | None]) -> int:
        """Train on every row once, in the same batches each time. Opening `source` is part of the epoch."""
        soft = source()
        self.model.train()
        total = torch.zeros((), device=self.device)
        for batch in sent(epoch_batches(self.batches.lengths, BATCH, seed=0, epoch=0), self.device):
            total += self._step(batch, soft)
        float(total)  # waits for a GPU
        return len(self.split)

    def _step(self, batch: Batch, soft: Soft | None) -> Tensor:
        labels = self.labels[batch.index]
        with precision(self.device):
            logits = self.model(**self.batches(batch)).logits.float()
        loss = self.hard(logits, labels, None) if soft is None else self.kd(logits, labels, soft(batch))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()


def soft_sources(pair: Pair, variants: tuple[str, ...] = VARIANTS) -> dict[str, Callable[[], Soft | None]]:
    """Each variant's source of soft logits. The teacher is loaded here, once; the cache is opened every epoch."""
    sources: dict[str, Callable[[], Soft | None]] = {}
    if PLAIN in variants:
        sources[PLAIN] = lambda: None
    if CACHED in variants:
        split = load_split(pair, pair.student)
        sources[CACHED] = lambda: _from_cache(pair, split)
    if ONLINE in variants:
        predict = teacher_of(pair)
        sources[ONLINE] = lambda: predict
    return sources


def _from_cache(pair: Pair, split: EncodedSplit) -> Soft:
    cache = LogitCache(pair.cache)

    def soft(batch: Batch) -> Tensor:
        logits = cache.logits("train", split.ids[batch.rows], split.row_hashes[batch.rows])
        return torch.from_numpy(logits).to(pair.device)

    return soft


def teacher_of(pair: Pair) -> Soft:
    """The teacher as a source of soft logits, on the rows from its own tokenizer."""
    model = load_model(pair, pair.teacher).eval()
    device = torch.device(pair.device)
    batches = Batcher(load_split(pair, pair.teacher), pad_token(model), device)

    def soft(batch: Batch) -> Tensor:
        with torch.inference_mode(), precision(device):
            logits = model(**batches(batch)).logits.float()
        return logits.clone()

    return soft


def precision(device: torch.device) -> Any:
    """The precision of both models: float32 on a CPU; on a GPU as in kdcache, bfloat16 if the GPU has it."""
    return autocast("auto" if device.type == "cuda" else "float32", device)


def load_split(pair: Pair, model: Model) -> EncodedSplit:
    split = Inputs(PreparedTask(pair.task), find_checkpoint(model)).rows("train")
    if pair.rows is None:
        return split
    types = split.token_type_ids
    return EncodedSplit(
        split.ids[: pair.rows],
        split.row_hashes[: pair.rows],
        split.labels[: pair.rows],
        (split.input_ids or [])[: pair.rows],
        None if types is None else types[: pair.rows],
    )


def load_model(pair: Pair, model: Model) -> Any:
    inputs = Inputs(PreparedTask(pair.task), find_checkpoint(model))
    return build_model(inputs.checkpoint, inputs.card, 0, inputs.preprocessor).to(pair.device)


def write_cache(pair: Pair) -> float:
    """The teacher's logits on the train split; the seconds it took, with the teacher loaded."""
    split, model = load_split(pair, pair.teacher), load_model(pair, pair.teacher)
    device = torch.device(pair.device)
    batches = Batcher(split, pad_token(model), device)
    with precision(device):
        cache = write_logits(
            model,
            batches,
            pair.cache,
            collate=lambda batch: batch,  # a Batcher gives whole batches
            row_hashes=split.row_hashes,
            lengths=batches.lengths,
            label_names=read_card(pair.task).label_names,
        )
    assert cache.cost is not None
    return cache.cost.seconds


def peak_of_epoch(pair: Pair, variant: str) -> int:
    """An epoch's peak memory in bytes, in a process that has only what the variant needs; on a GPU, the GPU's."""
    torch.set_num_threads(pair.threads)
    trial = Trial(pair)
    trial.epoch(soft_sources(pair, (variant,))[variant])
    return torch.cuda.max_memory_allocated() if trial.device.type == "cuda" else peak_memory()


def count_flops(pair: Pair) -> dict[str, float]:
    """Operations of an epoch's forward passes, of teacher and student, from configurations and batches."""
    lengths = {"teacher": _lengths(pair, pair.teacher), "student": _lengths(pair, pair.student)}
    configs = {
        "teacher": load_model(pair, pair.teacher).config,
        "student": load_model(pair, pair.student).config,
    }
    batches = epoch_batches(lengths["student"], BATCH, seed=0, epoch=0)
    return {
        who: sum(matmul_flops(configs[who], len(rows), int(lengths[who][rows].max())) for rows in batches)
        for who in configs
    }


def matmul_flops(config: Any, rows: int, length: int) -> float:
    """Floating-point operations (two for each multiplication) of a BERT classifier's forward pass on a batch.

    Matrix products only: 4 h^2 + 2 h i multiplications of weights per token and layer, 2 length h of attention, and the
    pooler and the head for each row.
    """
    h, i, k = config.hidden_size, config.intermediate_size, config.num_labels
    token = config.num_hidden_layers * (4 * h * h + 2 * h * i + 2 * length * h)
    return 2.0 * rows * (length * token + h * h + h * k)


def _lengths(pair: Pair, model: Model) -> Any:
    return np.array([len(row) for row in load_split(pair, model).input_ids or []], dtype=np.int64)


def _rows(pair: Pair) -> int:
    return LogitCache(pair.cache).manifest.splits["train"].rows


def _notes() -> list[str]:
    return [
        f"The built-in BBC headlines, texts of at most {TOKENS} tokens, batches of {BATCH} of similar length; AdamW, "
        "clipped gradients, float32 (on a GPU bfloat16). An epoch from the cache opens it, compares its checksums, "
        "and checks every row's hash.",
        "The prediction counts matrix products: of the student three times those of its forward pass, of the teacher "
        "in the loop those of its forward pass.",
        "Peak memory: of a process of its own that trains one epoch, with Python and its libraries (on a GPU, what "
        "torch allocated there).",
    ]
