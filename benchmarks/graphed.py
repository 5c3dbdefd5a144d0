"""Do CUDA graphs pay? `fine_tune` with the device's part of a step recorded once for each shape of batch, and replayed.

A small model's step is hundreds of kernels that take less time than Python takes to launch them; a recorded step is
launched as one. This is a candidate, measured by `benchmarks.gpu` beside `fine_tune` as it is, and no part of kdcache
before it has been found to pay. It is for losses that do not change while training, and for rows that fit on the GPU.

    with graphs():
        fine_tune(...)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from kdcache import training
from kdcache.batches import Batch, Batcher, Rows, pad_token
from kdcache.errors import KdcacheError

STEP = 8  # batches are padded to a multiple of so many tokens: fewer shapes to record
Update = Callable[[], Tensor]


@dataclass(frozen=True)
class Recorded:
    """A step on the rows whose numbers are in `index`."""

    index: Tensor
    step: Update


class Bucketed(Batcher):
    """Batches padded to a multiple of `STEP` tokens, but never beyond the longest row of all."""

    def longest(self, rows: Rows) -> int:
        return min(-(-super().longest(rows) // STEP) * STEP, int(self.lengths.max()))


class GraphedLoop(training._Loop):
    """The loop, which takes the first step of each shape as ever, records the second, and replays it from then on."""

    def __init__(self, accelerator: Any, model: torch.nn.Module, split: Any, *others: Any) -> None:
        super().__init__(accelerator, model, split, *others)
        device = accelerator.device
        self.batches = Bucketed(split, pad_token(model), device)
        if any(rows.values.device.type != device.type for rows in [*self.batches.images, *self.soft_logits]):
            raise KdcacheError("a recorded step finds its rows on the GPU; these do not fit there")
        for group in self.optimizer.param_groups:  # a number would be recorded as it is now
            group["lr"] = torch.tensor(group["lr"], device=device)
            group["capturable"] = True
        self.record, self.known = recorder(device), dict[tuple[int, ...], Recorded | None]()

    def update(self, batch: Batch, weight: float, progress: float) -> Tensor:
        plain = super().update
        longest, labelled = self.batches.longest(batch.rows), int((batch.rows < len(self.labels)).sum())
        shape = (len(batch), longest, labelled, self.batches.view)
        if shape not in self.known:
            self.known[shape] = None
            return aside(lambda: plain(batch, weight, progress), self.batches.device)
        found = self.known[shape]
        if found is None:
            mine = Batch(batch.rows, batch.index.clone())
            found = Recorded(mine.index, self.record(lambda: plain(mine, weight, progress)))
            self.known[shape] = found
        found.index.copy_(batch.index)
        return found.step()


def aside(update: Update, device: torch.device) -> Tensor:
    """Done on a stream that is not the default one, as what is recorded later has to be first."""
    if device.type != "cuda":
        return update()
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        found = update()
    current.wait_stream(stream)
    return found


def recorder(device: torch.device) -> Callable[[Update], Update]:
    """CUDA graphs, all in one pool of memory; where there is no GPU, the step itself, done anew each time."""
    if device.type != "cuda":
        return lambda update: update
    return functools.partial(captured, pool=torch.cuda.graph_pool_handle())


def captured(update: Update, pool: Any) -> Update:
    """A CUDA graph of it. Other shapes' graphs may use the same memory: nothing but the loss outlives a step."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        loss = update()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


@contextmanager
def graphs() -> Iterator[None]:
    """`fine_tune` records its steps meanwhile."""
    with mock.patch.object(training, "_Loop", GraphedLoop):
        yield
