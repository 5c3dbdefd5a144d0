"""Do CUDA graphs pay? `fine_tune` with the device's part of a step recorded once for each shape of batch, and replayed.

A small model's step has hundreds of kernels that take less time than Python needs to launch them. A recorded step is
launched as one. This is a candidate: `benchmarks.gpu` measures it beside `fine_tune`, and it becomes part of kdcache
only if it pays. It works for one process, losses that do not change during training, and rows that fit on the GPU. (A
recorded step masks attention even if no row is padded, since transformers does not check while recording.)

    with graphs():
        fine_tune(...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from unittest import mock

import torch
from accelerate import Accelerator
from torch import Tensor

from kdcache.errors import KdcacheError
from kdcache.modelling.batches import Batch, Batcher, Rows
from kdcache.modelling.encoding import EncodedSplit
from kdcache.training import loop
from kdcache.training.loop import Loop

MULTIPLE = 8  # tokens that batches are padded to a multiple of: fewer shapes to record
Update = Callable[[], Tensor]


@dataclass(frozen=True)
class Recorded:
    """A step on the rows whose numbers are in `index`."""

    index: Tensor
    step: Update


class Bucketed(Batcher):
    """Batches padded to a multiple of `MULTIPLE` tokens, but never beyond the longest row of all."""

    def longest(self, rows: Rows) -> int:
        return min(-(-super().longest(rows) // MULTIPLE) * MULTIPLE, int(self.lengths.max()))


class GraphedLoop(Loop):
    """The loop. The first step of each shape runs as usual, the second is recorded, and later ones are replayed."""

    def __init__(
        self, accelerator: Accelerator, model: torch.nn.Module, split: EncodedSplit, *others: Any
    ) -> None:
        super().__init__(accelerator, model, split, *others)
        device = accelerator.device
        if accelerator.num_processes > 1:  # the shares of a batch have weights, which the recording would fix
            raise KdcacheError(f"steps are recorded in one process, found {accelerator.num_processes}")
        if any(rows.values.device.type != device.type for rows in [*self.batches.images, *self.soft_logits]):
            raise KdcacheError("a recorded step finds its rows on the GPU; these do not fit there")
        for group in self.optimizer.param_groups:  # the recording would fix a number at its present value
            group["lr"] = torch.tensor(group["lr"], device=device)
            group["capturable"] = True
        self.recorder = Graphs(device) if device.type == "cuda" else Repeats()
        self.known: dict[tuple[int, ...], Recorded | None] = {}  # None: seen once

    def update(self, batch: Batch, weight: float, progress: float) -> Tensor:
        plain = super().update
        longest, labelled = self.batches.longest(batch.rows), int((batch.rows < len(self.labels)).sum())
        shape = (len(batch), longest, labelled, self.batches.view)
        if shape not in self.known:
            self.known[shape] = None
            return self.recorder.first(lambda: plain(batch, weight, progress))
        recorded = self.known[shape]
        if recorded is None:
            copy = Batch(batch.rows, batch.index.clone())
            recorded = Recorded(copy.index, self.recorder.record(lambda: plain(copy, weight, progress)))
            self.known[shape] = recorded
        recorded.index.copy_(batch.index)
        return recorded.step()


class Recorder(Protocol):
    def first(self, update: Update) -> Tensor:
        """Run the step unrecorded, so that nothing is loaded or created for the first time while recording."""

    def record(self, update: Update) -> Update:
        """Record the step; returns what replays it without Python. Recording itself computes nothing."""


class Graphs:
    """CUDA graphs that share one pool of memory, since only the loss outlives a step.

    Everything runs on one stream: memory is kept by stream, and work of the default stream cannot be recorded.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def first(self, update: Update) -> Tensor:
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            loss = update()
        current.wait_stream(self.stream)
        return loss

    def record(self, update: Update) -> Update:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            loss = update()

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay


class Repeats:
    """Without a GPU: run the step itself each time."""

    def first(self, update: Update) -> Tensor:
        return update()

    def record(self, update: Update) -> Update:
        return update


@contextmanager
def graphs() -> Iterator[None]:
    """Make `fine_tune` record its steps inside this block."""
    with mock.patch.multiple(loop, Loop=GraphedLoop, Batcher=Bucketed):
        yield
