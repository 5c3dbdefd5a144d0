"""The state of a training between two optimizer steps: everything that is needed to continue it.

It consists of named tensors and JSON values. Accelerate's own `save_state` would pickle the optimizer, the schedule and
the generators; nothing here is ever read from a pickle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from kdcache.errors import TrialError
from kdcache.system.processes import gathered

# Where each process has the whole model; sharded (FSDP, DeepSpeed) it has a part, which is not put together here.
WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


@dataclass(frozen=True)
class State:
    """Named tensors of all processes together, and the rest as JSON values."""

    tensors: dict[str, Tensor]
    rest: dict[str, Any]


@dataclass
class Progress:
    """The progress of a training: the epoch, how many of its batches are done, and the losses so far.

    `total` is the sum of the loss over this process's rows of the epoch, on the device; `losses` has the mean loss of
    each epoch that is over. `seconds` and `peak_memory_mb` are those of earlier processes, which were interrupted.
    """

    total: Tensor
    epoch: int = 0
    batch: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory_mb: float = 0.0

    def end_epoch(self, loss: float) -> None:
        self.losses.append(loss)
        self.epoch, self.batch = self.epoch + 1, 0
        self.total.zero_()


@dataclass(frozen=True)
class Run:
    """The parts of a run of the loop that change from step to step."""

    accelerator: Accelerator
    network: torch.nn.Module
    optimizer: Any
    schedule: torch.optim.lr_scheduler.LambdaLR
    progress: Progress

    @property
    def can_be_kept(self) -> bool:
        return self.accelerator.distributed_type in WHOLE

    def state(self, seconds: float, peak_memory_mb: float) -> State:
        """The present state; every process has to call this. Its tensors are those that are trained, no copies.

        Args:
            seconds, peak_memory_mb: of the whole run so far.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self._changing()}
        for place, values in self.optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{place}.{name}": value for name, value in values.items()})
        for rank, own in enumerate(gathered([self._own()])):
            tensors.update({f"process.{rank}.{name}": value for name, value in own.items()})
        progress = self.progress
        facts = {"epoch": progress.epoch, "batch": progress.batch, "losses": progress.losses}
        cost = {"seconds": seconds, "peak_memory_mb": peak_memory_mb}
        return State(tensors, {**facts, **cost, "steps": self.schedule.last_epoch})

    def go_on_from(self, state: State) -> None:
        """Restore everything from a state.

        Raises:
            TrialError: the state is of another model.
        """
        self._check_model(state)
        for name, tensor in self._changing():
            tensor.copy_(state.tensors[f"model.{name}"])
        self._put_back_optimizer(state)
        own = _below(f"process.{self.accelerator.process_index}", state)
        torch.set_rng_state(own["cpu"])
        if "device" in own:
            torch.get_device_module(self.accelerator.device).set_rng_state(own["device"])
        progress, rest = self.progress, state.rest
        progress.total.copy_(own["total"])
        progress.epoch, progress.batch, progress.losses = rest["epoch"], rest["batch"], list(rest["losses"])
        progress.seconds, progress.peak_memory_mb = rest["seconds"], rest["peak_memory_mb"]

    def _changing(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the model that training changes; other parameters are as they were built."""
        model = self.accelerator.unwrap_model(self.network)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter.detach()
        yield from model.named_buffers()

    def _own(self) -> dict[str, Tensor]:
        """The parts that belong to one process: its generators, and its part of the loss."""
        own = {"cpu": torch.get_rng_state(), "total": self.progress.total.cpu()}
        device = self.accelerator.device
        if device.type != "cpu":
            own["device"] = torch.get_device_module(device).get_rng_state()
        return own

    def _check_model(self, state: State) -> None:
        found = {name: value.shape for name, value in _below("model", state).items()}
        expected = {name: value.shape for name, value in self._changing()}
        if found != expected:
            name = next(name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name))
            raise TrialError(
                f"the kept state is of another model: {name} has shape {found.get(name)}, expected "
                f"{expected.get(name)}; delete it to train from the start"
            )

    def _put_back_optimizer(self, state: State) -> None:
        """The schedule's rates follow from the number of steps."""
        values: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, value in _below("optimizer", state).items():
            place, _, key = name.partition(".")
            values[int(place)][key] = value.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(values), "param_groups": groups})
        schedule, steps = self.schedule, state.rest["steps"]
        schedule.last_epoch, schedule._step_count = steps, steps + 1
        for group, rate, peak in zip(
            self.optimizer.param_groups, schedule.lr_lambdas, schedule.base_lrs, strict=True
        ):
            group["lr"] = peak * rate(steps)


def _below(prefix: str, state: State) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {
        name.removeprefix(start): value for name, value in state.tensors.items() if name.startswith(start)
    }
