"""Time how fast a model trains and predicts on this machine: a few optimizer steps on rows of typical length.

The rows are made up, since only their number and lengths decide the time. The model has the checkpoint's architecture
and random weights. So only the configuration and the tokenizer of a hub checkpoint are fetched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from accelerate import PartialState

from kdcache.checkpoints.find import find_checkpoint
from kdcache.cli.planning.estimates import Speed, key
from kdcache.cli.planning.plan import Plan, prepared_card
from kdcache.cli.planning.runs import Job, Size
from kdcache.engine import share_cores
from kdcache.errors import KdcacheError
from kdcache.modelling.adapting import merged, to_be_trained
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedImages, EncodedSplit, encode_texts
from kdcache.modelling.predicting import predict
from kdcache.modelling.preprocessors import Preprocessor, load_preprocessor
from kdcache.modelling.tokens.building import build_causal_model, load_tokenizer
from kdcache.modelling.tokens.likelihoods import token_likelihoods
from kdcache.modelling.tokens.packing import Packed, pack
from kdcache.study import Model, Regularizer, Task
from kdcache.system.devices import device_name
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepared import PreparedTask
from kdcache.training.loop import Training, fine_tune
from kdcache.training.regularizers import make_loss
from kdcache.training.tokens.loop import fine_tune_tokens
from kdcache.training.tokens.losses import make_token_loss
from kdcache.training.tokens.targets import hard_targets

log = logging.getLogger(__name__)
STEPS = 5  # timed steps, after one to warm up
Rows = TypeVar("Rows", EncodedSplit, Packed)
CLASSES = 2  # assumed for a task that is not prepared; it hardly matters for the time


def calibrate(plan: Plan, data: Path) -> tuple[dict[tuple[str, str, str], Speed], list[str]]:
    """Time every distinct model of the plan on each of its tasks.

    Args:
        data: the folder that holds `tasks/`. If a task is not prepared as the study says, every text is assumed to
            have max_length tokens.

    Returns:
        The speeds by job, and a note for each model that could not be timed, with the reason.
    """
    share_cores()
    timed: dict[tuple[str, Model], Speed | str] = {}
    for job in plan.jobs:
        distinct = (job.task, _architecture(job.params))
        if distinct not in timed:
            log.info("timing %s on %s", job.model, job.task)
            timed[distinct] = _attempt(plan.study.tasks[job.task], job, plan.sizes[job.task], data)
    speed_of = {key(job): timed[job.task, _architecture(job.params)] for job in plan.jobs}
    speeds = {job: speed for job, speed in speed_of.items() if isinstance(speed, Speed)}
    reasons = [reason for reason in timed.values() if isinstance(reason, str)]
    return speeds, list(dict.fromkeys(reasons))


def _architecture(model: Model) -> Model:
    """The part of a model's params that decides its speed (without start, learning rate and epochs)."""
    keep = {
        "checkpoint",
        "revision",
        "layers",
        "batch_size",
        "precision",
        "accumulate",
        "gradient_checkpointing",
    }
    scratch = Model(**model.model_dump(include=keep), init="scratch", learning_rate=1e-5, epochs=1)
    return scratch.model_copy(update={"lora": model.lora})  # LoRA on random weights too


def _attempt(task: Task, job: Job, size: Size | None, data: Path) -> Speed | str:
    folder = data / "tasks" / job.task
    prepared = prepared_card(task, folder)
    card = prepared or _stand_in(job.task, task, size)
    try:
        if task.language_modelling:
            return time_language_model(_architecture(job.params), card)
        return time_model(_architecture(job.params), card, folder if prepared else None)
    except KdcacheError as error:
        return f"not timed: {error}"


def _stand_in(name: str, task: Task, size: Size | None) -> TaskCard:
    classes = (size.classes if size else None) or CLASSES
    return TaskCard(
        name=name,
        modality=task.modality,
        regression=task.regression,
        label_names=[] if task.regression else [str(label) for label in range(classes)],
        rows={},
        class_counts={},
        source={},
        dropped={},
        kind=task.kind,
        metrics=list(task.metrics),
        max_length=task.max_length,
        fingerprint="",
    )


def time_model(model: Model, card: TaskCard, folder: Path | None, steps: int = STEPS) -> Speed:
    """Time a model on rows like a task's.

    Args:
        model: `init: scratch`, so that no weights are needed.
        folder: the prepared task; None for texts of max_length tokens.

    Raises:
        KdcacheError: the checkpoint cannot be found or fetched, or does not fit the task.
    """
    checkpoint = find_checkpoint(model)
    preprocessor = load_preprocessor(checkpoint, card)
    network = build_model(checkpoint, card, 0, preprocessor)
    rows = _made_up(preprocessor, _lengths(preprocessor, card, folder, steps * model.batch_size), card)
    loss = make_loss(Regularizer(), card.classes, card.regression)
    return _timed(
        network,
        model,
        (_part(rows, model.batch_size), rows),
        lambda trained, some: fine_tune(trained, some, loss, model, 0),
        lambda trained: predict(trained, rows, model.batch_size, model.precision),
    )


def time_language_model(model: Model, card: TaskCard, steps: int = STEPS) -> Speed:
    """Time a language model on packed sequences of the task's max_length. A row is a sequence.

    Args:
        model: `init: scratch`, so that no weights are needed.

    Raises:
        KdcacheError: the checkpoint cannot be found or fetched, or does not fit the task.
    """
    checkpoint = find_checkpoint(model)
    tokenizer = load_tokenizer(checkpoint, card).tokenizer
    network, vocabulary = build_causal_model(checkpoint, card, 0), len(tokenizer)
    loss = make_token_loss(Regularizer())
    rows = _made_up_text(vocabulary, card.max_length or 0, steps * model.batch_size)
    first = _made_up_text(vocabulary, card.max_length or 0, model.batch_size)
    return _timed(
        network,
        model,
        (first, rows),
        lambda trained, some: fine_tune_tokens(trained, some, hard_targets(some, vocabulary), loss, model, 0),
        lambda trained: token_likelihoods(trained, rows, model.batch_size),
    )


def _timed(
    network: Any,
    model: Model,
    rows: tuple[Rows, Rows],
    train: Callable[[Any, Rows], tuple[Any, Training]],
    predict: Callable[[Any], Any],
) -> Speed:
    """Train on the first rows to warm up. Then measure training and predicting on the second rows."""
    with to_be_trained(network, model, 0) as trained:
        trained, _ = train(trained, rows[0])
        trained, run = train(trained, rows[1])
    trained = merged(trained)
    start = time.perf_counter()
    predict(trained)
    predicting = time.perf_counter() - start
    return Speed(
        step=run.seconds / run.steps,
        row=predicting / len(rows[1]),
        device=device_name(PartialState().device),
        source="calibration",
        parameters=sum(weights.numel() for weights in trained.parameters()),
    )


def _lengths(
    preprocessor: Preprocessor, card: TaskCard, folder: Path | None, count: int
) -> npt.NDArray[np.int64]:
    """The number of tokens in each of `count` rows: of random train rows, or by default max_length; 0 for images."""
    if card.modality == "image" or folder is None:
        return np.full(count, card.max_length or 0, dtype=np.int64)
    table = PreparedTask(folder).rows("train")
    drawn = np.random.default_rng(0).integers(table.num_rows, size=count)
    texts = encode_texts(table.take(drawn), preprocessor.tokenizer, card.max_length or 0)
    return np.array([len(row) for row in texts.input_ids], dtype=np.int64)


def _made_up(preprocessor: Preprocessor, lengths: npt.NDArray[np.int64], card: TaskCard) -> EncodedSplit:
    rng, count = np.random.default_rng(0), len(lengths)
    labels = np.zeros(count, np.float32) if card.regression else np.zeros(count, np.int64)
    ids, hashes = np.arange(count, dtype=np.int64), np.zeros(count, dtype=np.uint64)
    if preprocessor.kind == "image":
        shape = (count, preprocessor.channels, preprocessor.size, preprocessor.size)
        pixels = rng.integers(256, size=shape, dtype=np.uint8)
        images = EncodedImages(pixels, preprocessor.mean, preprocessor.std)
        return EncodedSplit(ids, hashes, labels, images=images)
    vocabulary = len(preprocessor.tokenizer)
    return EncodedSplit(
        ids, hashes, labels, input_ids=[rng.integers(vocabulary, size=n, dtype=np.int32) for n in lengths]
    )


def _made_up_text(vocabulary: int, length: int, count: int) -> Packed:
    """`count` full sequences, each with one document."""
    tokens = np.random.default_rng(0).integers(vocabulary, size=count * (length - 1) - 1)
    return pack([tokens], 0, length)


def _part(rows: EncodedSplit, count: int) -> EncodedSplit:
    """The first `count` rows."""
    return EncodedSplit(
        rows.ids[:count],
        rows.row_hashes[:count],
        rows.labels[:count],
        None if rows.input_ids is None else rows.input_ids[:count],
        None,
        None if rows.images is None else replace(rows.images, pixels=rows.images.pixels[:count]),
    )
