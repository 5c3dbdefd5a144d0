"""Run a trained model: raw logits of a split, in the order of its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from kdcache.modelling.batches import Batcher, pad_token, sent
from kdcache.modelling.encoding import EncodedSplit
from kdcache.system.devices import has_bfloat16


def autocast(precision: str, device: torch.device) -> Any:
    """bfloat16 autocast if asked for, or, with `auto`, if the device has instructions for it; else float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=in_bfloat16(precision, device))


def in_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a model is run in bfloat16: if asked for, or, with `auto`, if the device has instructions for it."""
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16(device.type))


def logits_of(model: torch.nn.Module, precision: str = "float32") -> Callable[..., Tensor]:
    """The trained model as a function from a batch's keyword arguments to raw logits [B, K], float32."""
    device = PartialState().device
    network = model.to(device).eval()

    def run(**inputs: Tensor) -> Tensor:
        with torch.no_grad(), autocast(precision, device):
            return network(**inputs).logits.float()  # type: ignore[no-any-return]

    return run


def predict(
    model: torch.nn.Module, split: EncodedSplit, batch_size: int, precision: str = "float32"
) -> npt.NDArray[np.float32]:
    """Raw logits [N, K] of a trained model, in the split's row order, on every process."""
    state = PartialState()
    run = logits_of(model, precision)
    batches = Batcher(split, pad_token(model), state.device)
    order = np.argsort(batches.lengths, kind="stable")
    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    mine = parts[state.process_index :: state.num_processes]
    on_device = [run(**batches(batch)) for batch in sent(mine, state.device)]
    found = [values.cpu().numpy() for values in on_device]  # in the end: each waits for a GPU
    if state.num_processes > 1:
        mine, found = gather_object(mine), gather_object(found)
    logits = np.empty((len(order), found[0].shape[1]), dtype=np.float32)
    for rows, values in zip(mine, found, strict=True):
        logits[rows] = values
    return logits


def predict_views(
    model: torch.nn.Module, split: EncodedSplit, batch_size: int, precision: str = "float32"
) -> npt.NDArray[np.float32]:
    """Raw logits [N, V, K] of a split with V views, in the split's row order, on every process."""
    return np.stack([predict(model, view, batch_size, precision) for view in split.views()], axis=1)
