"""Batches: which rows share a batch, and a split's rows on a device, encoded for a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdcache.modelling.encoding import EncodedSplit

Rows = npt.NDArray[np.int64]

# Batches are drawn from pools of this many, sorted by length within the pool: little padding, still random.
POOL = 50


def epoch_batches(lengths: npt.NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """Row numbers of each batch of an epoch: every row once, in an order that only seed and epoch decide.

    Args:
        lengths: [N] tokens in each row; rows of similar length share a batch.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    batches: list[Rows] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


@dataclass(frozen=True)
class Batch:
    """Row numbers [B], on the host and on a device."""

    rows: Rows
    index: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self, count: int) -> list[Batch]:
        """The rows, in order, in at most `count` parts of equal size; the last may be smaller."""
        size = -(-len(self) // count)
        return [
            Batch(self.rows[start : start + size], self.index[start : start + size])
            for start in range(0, len(self), size)
        ]


def sent(batches: Sequence[Rows], device: torch.device) -> list[Batch]:
    """Copy batches to a device, all at once: one copy a batch would wait for the device each time."""
    if not batches:
        return []
    index = torch.from_numpy(np.concatenate(batches)).to(device)
    parts = torch.split(index, [len(rows) for rows in batches])
    return [Batch(rows, part) for rows, part in zip(batches, parts, strict=True)]


def pad_token(model: torch.nn.Module) -> int:
    """The token that pads a model's batches; 0 (unused) for an image model."""
    return getattr(model.config, "pad_token_id", None) or 0


def device_rows(tensors: Sequence[Tensor], device: torch.device) -> list[DeviceRows]:
    """Rows of each tensor [N, ...], on a device.

    They are kept on the device if all of them take at most half of its free memory, else in the host's memory.
    """
    kept = _fit(tensors, device)
    return [DeviceRows(values.to(device) if kept else values, device) for values in tensors]


class DeviceRows:
    """Rows of a tensor [N, ...] on a device; the tensor itself is on that device or on the host.

    Rows on the host are sent on demand through page-locked memory, so nothing waits for them to arrive.
    """

    def __init__(self, values: Tensor, device: torch.device) -> None:
        self.values, self.device = values, device

    def __getitem__(self, batch: Batch) -> Tensor:
        if self.values.device.type == self.device.type:
            return self.values[batch.index]
        found = self.values[torch.from_numpy(batch.rows)]
        return (found.pin_memory() if self.device.type == "cuda" else found).to(
            self.device, non_blocking=True
        )


def _fit(tensors: Sequence[Tensor], device: torch.device) -> bool:
    needed = sum(values.nbytes for values in tensors)
    return device.type != "cuda" or needed <= torch.cuda.mem_get_info(device)[0] / 2


class Normalise:
    """Pixels, uint8 [n, C, H, W], into a model's input: (pixels / 255 - mean) / std by channel, float32."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device | None = None
    ) -> None:
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1) for values in (mean, std)
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        return (pixels.float() / 255 - self._mean) / self._std


class Batcher:
    """A split's features on a device, from which a model's keyword arguments are made batch by batch."""

    def __init__(self, split: EncodedSplit, pad_token_id: int, device: torch.device) -> None:
        self.device = device
        self.images: list[DeviceRows] = []  # of each view, [N, C, H, W]
        self.views, self.view = 1, 0  # V, and the view that rows are given in
        if split.images is not None:
            pixels = torch.from_numpy(split.images.pixels)
            self.images = device_rows(list(pixels) if pixels.ndim == 5 else [pixels], device)
            self.normalise = Normalise(split.images.mean, split.images.std, device)
            self.views = len(self.images)
            self.lengths = np.zeros(len(split.ids), dtype=np.int64)
            return
        assert split.input_ids is not None
        self.lengths = np.array([len(row) for row in split.input_ids], dtype=np.int64)
        self.device_lengths = torch.from_numpy(self.lengths).to(device)
        self.input_ids = self._padded(split.input_ids, pad_token_id)
        types = split.token_type_ids
        self.token_type_ids = None if types is None else self._padded(types, 0)

    def _padded(self, rows: list[npt.NDArray[np.int32]], value: int) -> Tensor:
        matrix = np.full((len(rows), int(self.lengths.max())), value, dtype=np.int32)
        for index, row in enumerate(rows):
            matrix[index, : len(row)] = row
        return torch.from_numpy(matrix).to(self.device)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """Rows by position: the method of a data set that `kdcache.write_logits` calls."""
        return self(sent([np.asarray(rows)], self.device)[0])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return self.__getitems__([row])

    def longest(self, rows: Rows) -> int:
        """The number of tokens to which a batch of these rows is padded."""
        return int(self.lengths[rows].max())

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The model's inputs for these rows: padded to the longest of them, with its attention mask."""
        if self.images:
            return {"pixel_values": self.normalise(self.images[self.view][batch])}
        longest = self.longest(batch.rows)
        positions = torch.arange(longest, device=self.device)
        inputs = {
            "input_ids": self.input_ids[batch.index, :longest].long(),
            "attention_mask": (positions < self.device_lengths[batch.index, None]).long(),
        }
        if self.token_type_ids is not None:
            inputs["token_type_ids"] = self.token_type_ids[batch.index, :longest].long()
        return inputs
