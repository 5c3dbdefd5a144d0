"""Re-run a teacher on some rows of its cache and compare: `kdcache verify --against`.

Checksums show that a cache is as it was written. This shows that this teacher wrote it, from these data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import ValidationError

from kdcache.checkpoints.find import find_checkpoint
from kdcache.cli.analysis import task_rows
from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.logits.places import PLAIN
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedSplit, encode_images, encode_texts, labels_of
from kdcache.modelling.inputs import Inputs
from kdcache.modelling.predicting import predict
from kdcache.modelling.preprocessors import Preprocessor
from kdcache.study import UNLABELLED, Teacher
from kdcache.system.files import read_json
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.identity import teacher_caches
from kdcache.trials.layout import TEACHER
from kdcache.trials.plan import trained_teacher

Logits = npt.NDArray[np.float32]


def rerun(
    cache: LogitCache, splits: Sequence[str], folder: Path, task: Path, rows: int, seed: int, tolerance: float
) -> dict[str, Any]:
    """Run a teacher on `rows` random rows of each split (or all rows, if there are fewer) and compare its logits.

    Args:
        folder: the teacher, as stage teach saved it (with teacher.json).
        task: the prepared task whose logits the cache holds.
        seed: decides which rows are drawn.
        tolerance: the largest |difference| / (1 + |cached logit|) that is accepted.

    Returns:
        `teacher`, `rows` (the number compared), `seed`, `tolerance`, `difference` (the largest found), and
        `other_fingerprints`: the names of the fingerprints that differ from the cache's.

    Raises:
        CacheError: a logit differs by more than the tolerance, or the rows or the classes differ.
        KdcacheError: the teacher or the task cannot be read.
    """
    cache.require_plain("running the teacher again on the task's rows")
    prepared, teacher = PreparedTask(task), _teacher(folder)
    inputs = Inputs(prepared, find_checkpoint(teacher))
    drawn = {
        split: _draw(cache, split, task, rows, seed) for split in splits if cache.manifest.splits[split].rows
    }
    model = build_model(inputs.checkpoint, inputs.card, teacher.seed, inputs.preprocessor)
    other = _other_fingerprints(cache, inputs)
    largest = 0.0
    for split, table in drawn.items():
        encoded = _encode(table, inputs.preprocessor, inputs.card)
        logits = predict(model, encoded, teacher.batch_size, teacher.precision)
        largest = max(
            largest, _compare(cache, split, encoded, logits, tolerance, f"{folder}{_note(cache, other)}")
        )
    return {
        "teacher": str(folder),
        "rows": sum(table.num_rows for table in drawn.values()),
        "seed": seed,
        "tolerance": tolerance,
        "difference": largest,
        "other_fingerprints": other,
    }


def _teacher(folder: Path) -> Teacher:
    """The fine-tuned teacher, with the batch size and precision that teacher.json gives."""
    path = folder / TEACHER
    if not path.is_file():
        raise CacheError(f"{folder}: no {TEACHER}, so this is no teacher that stage teach saved")
    try:
        params = Teacher.model_validate(read_json(path)["params"])
    except (KeyError, TypeError, ValidationError) as error:
        raise CacheError(f"{path}: says no teacher's parameters ({error}); run stage teach again") from None
    return trained_teacher(params, folder)


def _draw(cache: LogitCache, split: str, task: Path, rows: int, seed: int) -> pa.Table:
    table = task_rows(cache, split, task)
    count = min(rows, table.num_rows)
    return table.take(np.sort(np.random.default_rng(seed).choice(table.num_rows, count, replace=False)))


def _encode(table: pa.Table, preprocessor: Preprocessor, card: TaskCard) -> EncodedSplit:
    """Does what `modelling.encoding.encode_split` does, but only for these rows."""
    ids, hashes = table["id"].to_numpy(), table["row_hash"].to_numpy()
    labels = labels_of(table, card)
    if card.modality == "image":
        return EncodedSplit(ids, hashes, labels, images=encode_images(table["image"], preprocessor))
    texts = encode_texts(table, preprocessor.tokenizer, card.max_length or 0)
    return EncodedSplit(ids, hashes, labels, texts.input_ids, texts.token_type_ids)


def _compare(
    cache: LogitCache, split: str, rows: EncodedSplit, logits: Logits, tolerance: float, teacher: str
) -> float:
    """The largest relative difference of a logit.

    Raises:
        CacheError: the difference is above the tolerance.
    """
    cached = cache.logits(split, rows.ids, rows.row_hashes)
    if cached.shape != logits.shape:
        raise CacheError(f"{cache.path}: has {cached.shape[1]} classes, {teacher} gives {logits.shape[1]}")
    differences = (np.abs(cached.astype(np.float64) - logits) / (1 + np.abs(cached))).max(axis=1)
    differences[np.isnan(differences)] = np.inf  # NaN logits of the teacher count as a difference
    row = int(np.argmax(differences))
    if differences[row] > tolerance:
        raise CacheError(
            f"{cache.path}: split {split!r}, row id {rows.ids[row]}: the teacher gives other logits than the cache: "
            f"expected {cached[row].tolist()[:8]}, found {logits[row].tolist()[:8]} "
            f"({int((differences > tolerance).sum())} of {len(rows)} rows differ by more than {tolerance:g}) from "
            f"{teacher}; cache this teacher's logits again, or raise --tolerance if only the precision differs"
        )
    return float(differences[row])


def _other_fingerprints(cache: LogitCache, inputs: Inputs) -> list[str]:
    expected = cache.manifest.fingerprints.model_dump()
    part = UNLABELLED if UNLABELLED in cache.splits and inputs.card.unlabelled else PLAIN
    actual = teacher_caches(inputs.card, inputs.checkpoint, inputs.checkpoint.weights)[part].model_dump()
    return [name for name in expected if expected[name] != actual[name]]


def _note(cache: LogitCache, other: Sequence[str]) -> str:
    """Possible explanations of a difference: other fingerprints, or another device."""
    device = cache.cost.device if cache.cost else "cpu"
    device_here = "GPU" if torch.cuda.is_available() else "cpu"
    reasons = [f"other fingerprints: {', '.join(other)}"] if other else []
    reasons += (
        [f"cached on {device}, now on {device_here}"] if (device == "cpu") != (device_here == "cpu") else []
    )
    return f" ({'; '.join(reasons)})" if reasons else ""
