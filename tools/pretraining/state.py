"""A run's state in one file: weights, AdamW moments and progress. The file is replaced atomically."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from kdcache.system.files import write_atomically
from tools.pretraining.errors import PretrainingError


@dataclass
class Progress:
    """The progress of a run, stored in the header of its state file."""

    step: int = 0
    seconds: float = 0.0
    steps: int = 0
    decay_start: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


def save_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, identity: str
) -> None:
    """Replace the state file atomically: an interrupted write leaves the previous state."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    metadata = {"identity": identity, "progress": json.dumps(asdict(progress))}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: str) -> Progress:
    """Fill model and optimizer from a state file, and return the progress. Another run's file is an error."""
    try:
        with safe_open(path, framework="pt") as state:
            metadata = state.metadata() or {}
            _check_identity(path, metadata.get("identity", "none"), identity)
            progress = Progress(**json.loads(metadata["progress"]))
            for name, parameter in model.named_parameters():
                _restore(parameter, name, state, optimizer, progress.step)
    except SafetensorError as error:
        raise PretrainingError(f"{path}: not a readable state ({error}); delete it to start again") from error
    return progress


def _check_identity(path: Path, identity: str, expected: str) -> None:
    if identity != expected:
        raise PretrainingError(
            f"{path}: belongs to another run: expected recipe and texts {expected}, found {identity}. "
            "Only `tokens` may change on resume: use another work directory, or delete this one to start again."
        )


def _restore(
    parameter: nn.Parameter, name: str, state: Any, optimizer: torch.optim.Optimizer, step: int
) -> None:
    with torch.no_grad():
        parameter.copy_(state.get_tensor(f"weight/{name}"))
    optimizer.state[parameter] = {
        "step": torch.tensor(float(step)),
        "exp_avg": state.get_tensor(f"exp_avg/{name}"),
        "exp_avg_sq": state.get_tensor(f"exp_avg_sq/{name}"),
    }
