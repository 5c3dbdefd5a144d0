"""Functions for tensors on any device. On a CPU they use NumPy's, which are several times as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor


def array(values: Tensor) -> npt.NDArray[Any]:
    """A tensor of any device as an array."""
    return values.detach().cpu().numpy()


def by_numpy(values: Tensor) -> bool:
    """Whether NumPy can work on these values where they are."""
    return values.is_cpu


def take(values: Tensor, places: Tensor) -> Tensor:
    """The values [m] at some places [m] of [n]."""
    import torch

    if by_numpy(values):
        return torch.from_numpy(values.numpy().take(places.numpy()))
    return values[places]


def take_rows(values: Tensor, places: Tensor) -> Tensor:
    """The rows [m, k] at some places [m] of [n, k]."""
    import torch

    if by_numpy(values):
        return torch.from_numpy(values.numpy().take(places.numpy(), axis=0))
    return values[places]


def places_of(mask: Tensor) -> Tensor:
    """The places in the flat mask where it is true, ascending."""
    import torch

    if by_numpy(mask):
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero().reshape(-1)


def search(line: Tensor, points: Tensor) -> Tensor:
    """For each point [m]: how many numbers of the ascending line [n] are equal to it or below it."""
    import torch

    if by_numpy(line):
        return torch.from_numpy(np.searchsorted(line.numpy(), points.numpy(), side="right"))
    return torch.searchsorted(line, points, right=True)


def cumulated(values: Tensor) -> Tensor:
    """The running sums of integers [n], after a zero: [n + 1]."""
    import torch

    line = torch.zeros(len(values) + 1, dtype=torch.int64, device=values.device)
    if by_numpy(values):
        np.cumsum(values.numpy(), out=line.numpy()[1:])
    else:
        torch.cumsum(values, 0, out=line[1:])
    return line


def sums(values: Tensor) -> Tensor:
    """Sums over the last dimension, which is short. The order of adding depends on nothing else."""
    import torch

    if by_numpy(values):
        return torch.from_numpy(np.einsum("...k->...", values.numpy()))
    return values.sum(-1)


def dots(one: Tensor, other: Tensor) -> Tensor:
    """The rows' scalar products, [n]."""
    import torch

    if by_numpy(one):
        return torch.from_numpy(np.vecdot(one.numpy(), other.numpy()))
    products: Tensor = torch.linalg.vecdot(one, other)
    return products
