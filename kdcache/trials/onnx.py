"""A saved student as ONNX, by torch's exporter. It gives torch's logits on every row of validation, or is refused."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.errors import TrialError
from kdcache.modelling.batches import Batcher, pad_token, sent
from kdcache.modelling.building import build_model
from kdcache.modelling.inputs import Inputs
from kdcache.system.files import read_json, write_json
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.layout import ONNX, STUDENT
from kdcache.trials.saved_models import model_files

OPSET = 20  # the version of ONNX's operators
TOLERANCE = 1e-4  # of a logit: absolute, but relative for a logit of size above 1
CPU = torch.device("cpu")
Logits = npt.NDArray[np.float32]
Run = Callable[[dict[str, Tensor]], Logits]

log = logging.getLogger(__name__)


def check_exporter(language_model: bool) -> None:
    """Raise whatever would prevent any export, before time is spent on training.

    Raises:
        TrialError: the student is a language model.
        ModuleNotFoundError: onnxruntime or onnxscript is not installed.
    """
    if language_model:
        raise TrialError(
            "a language model's student is not exported to ONNX: the file would read a whole text again for each "
            "token that it writes; leave --onnx out"
        )
    for package in ("onnxruntime", "onnxscript"):
        import_module(package)


def add_onnx(folder: Path, task_folder: Path) -> None:
    """Write model.onnx into a saved student's folder. Both models compute in float32, on the CPU.

    Its inputs have the same names as the model's: `input_ids`, `attention_mask` and, for models with segments,
    `token_type_ids`, int64 [batch, length]; or `pixel_values`, float32 [batch, C, H, W]. Its output is `logits`,
    float32 [batch, K]. A batch may have any size and any length.

    Raises:
        TrialError: the model cannot be exported, or a logit of validation differs; the message names the row.
    """
    inputs = Inputs(PreparedTask(task_folder), Checkpoint(folder, "pretrained"))
    model = build_model(inputs.checkpoint, inputs.card, 0, inputs.preprocessor).eval()
    rows = inputs.rows("validation")
    batches = Batcher(rows, pad_token(model), CPU)
    by_length = np.argsort(batches.lengths, kind="stable")
    log.info("exporting to ONNX, and comparing the logits of %d rows", len(rows))
    try:
        _export(model, batches(sent([by_length[[0, -1]]], CPU)[0]), folder / ONNX)
        run = _in_onnx(folder / ONNX)
        # In other batches than torch, so that most rows get another padding.
        found = _logits(run, batches, np.arange(len(rows)), 7)
    except Exception as error:  # torch, onnxscript and onnxruntime each have exceptions of their own
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise TrialError(
            f"a {inputs.checkpoint.family} model cannot be exported to ONNX: {reason}"
        ) from error
    _check_same(_logits(_in_torch(model), batches, by_length, 32), found, rows.ids)
    write_json(folder / STUDENT, {**read_json(folder / STUDENT), "files": model_files(folder, STUDENT)})


def _export(model: torch.nn.Module, example: dict[str, Tensor], path: Path) -> None:
    free = {0: "batch"} if "pixel_values" in example else {0: "batch", 1: "length"}
    with _silent():
        program: Any = torch.onnx.export(
            model,
            kwargs=example,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(example),
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(example, free),
        )
        program.save(path)  # weights of over 2 GB go to a second file beside it
    for file in path.parent.glob(f"{path.name}*"):
        with file.open("rb") as written:
            os.fsync(written.fileno())


@contextmanager
def _silent() -> Iterator[None]:
    """Hide the exporter's and its libraries' messages about each other, and about every node that they change."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _in_torch(model: torch.nn.Module) -> Run:
    def run(inputs: dict[str, Tensor]) -> Logits:
        with torch.no_grad():
            return model(**inputs).logits.numpy()  # type: ignore[no-any-return]

    return run


def _in_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]


def _logits(run: Run, batches: Batcher, order: npt.NDArray[np.int64], size: int) -> Logits:
    """Logits [N, K] in the order of the rows, computed in batches that follow another order."""
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    found = np.concatenate([run(batches(batch)) for batch in sent(parts, CPU)])
    logits = np.empty_like(found)
    logits[order] = found
    return logits


def _check_same(expected: Logits, found: Logits, ids: npt.NDArray[np.int64]) -> None:
    off = np.abs(found - expected) / np.maximum(np.abs(expected), 1)
    row, label = np.unravel_index(np.argmax(np.nan_to_num(off, nan=np.inf)), off.shape)
    if not off[row, label] <= TOLERANCE:
        raise TrialError(
            f"the ONNX model is another: validation, row id {ids[row]}, logit [{label}] is {expected[row, label]:.6g} "
            f"in torch and {found[row, label]:.6g} in onnxruntime; nothing is written"
        )
