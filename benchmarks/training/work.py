"""What all variants train: the rows, the model, and the options that choose them."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import transformers

from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import KdcacheError
from kdcache.logits import Fingerprints, LogitWriter
from kdcache.modelling.encoding import EncodedSplit, encode_split
from kdcache.modelling.preprocessors import Preprocessor, load_preprocessor
from kdcache.study import Student, Task
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask

LENGTH = 128  # what run_glue pads to


Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Work:
    """What all variants train: the rows as tokens, the model, and the folder of a cache of the train rows' logits."""

    card: TaskCard
    train: EncodedSplit
    validation: EncodedSplit
    student: Student
    preprocessor: Preprocessor
    cache: Path
    device: Device = "cpu"


def prepare(args: argparse.Namespace, folder: Path) -> Work:
    source: Any = {"builtin": "bbc_headlines"}
    if args.files:
        source = {"files": dict(zip(("train", "validation"), map(str, args.files), strict=True))}
    spec = Task(source=source, text=args.text, metrics=["accuracy"], max_length=LENGTH, train_size=args.rows)
    card = prepare_task(spec, folder / "task", "benchmark")
    student = Student(
        checkpoint=str(_checkpoint(args, folder)),
        init="scratch" if args.size else args.init,
        layers=args.layers,
        learning_rate=args.learning_rate,
        epochs=args.epochs,
        batch_size=args.batch_size,
    )
    preprocessor = load_preprocessor(find_checkpoint(student), card)
    train, validation = (
        encode_split(PreparedTask(folder / "task"), split, preprocessor) for split in ("train", "validation")
    )
    _write_cache(folder / "cache", card, train)
    return Work(card, train, validation, student, preprocessor, folder / "cache")


def _checkpoint(args: argparse.Namespace, folder: Path) -> Path:
    given = Path(args.checkpoint)
    if not args.size:
        return given
    if not given.is_dir():
        raise KdcacheError(f"--size takes the tokenizer of a folder, found --checkpoint {given}")
    return sized(given, folder / "{}, {} x {}, {} heads".format(given.name, *args.size), *args.size)


def sized(checkpoint: Path, made: Path, layers: int, width: int, heads: int) -> Path:
    """Make a checkpoint without weights: another one's architecture and tokenizer in this size."""
    config = transformers.AutoConfig.from_pretrained(
        checkpoint,
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
    )
    config.save_pretrained(made)
    for file in checkpoint.glob("tokenizer*"):
        shutil.copy(file, made)
    return made


def _write_cache(folder: Path, card: TaskCard, train: EncodedSplit) -> None:
    """Write logits of an untrained teacher; reading and using them costs the same as any others."""
    logits = np.random.default_rng(0).normal(0, 3, (len(train), card.classes)).astype(np.float32)
    prints = Fingerprints(data=card.fingerprint, weights="none", preprocessing="none", code="none")
    with LogitWriter(
        folder, classes=card.classes, label_names=card.label_names, fingerprints=prints
    ) as writer:
        writer.write("train", train.ids, train.row_hashes, logits)
        writer.finish()


def described(work: Work) -> dict[str, Any]:
    """What was trained, and on which rows."""
    assert work.train.input_ids is not None
    student = work.student
    return {
        "model": f"{Path(student.checkpoint).name}, {student.layers or 'all'} layers, {student.init}",
        "rows": len(work.train),
        "mean_tokens": float(np.mean([len(row) for row in work.train.input_ids])),
        "epochs": student.epochs,
        "batch_size": student.batch_size,
    }
