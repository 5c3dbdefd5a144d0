"""Views: logits of augmented inputs, and how the student gets exactly these inputs again.

A teacher that saw an image cropped and flipped has logits of that crop, not of the image. So a cache of augmented
inputs keeps V views of each row, each with its own seed. The student replays the seed: its input is bit for bit what
the teacher saw (FKD, Shen & Xing 2022, arXiv 2112.01528, which keeps the crops' coordinates; TinyViT, Wu et al. 2022,
arXiv 2207.10666, which keeps seeds, as here).

A seed is not stored but derived (`view_seed`). The augmentation is any function of a row, or of one of its values. It
draws its random numbers from Python's `random`, NumPy's global generator or torch's CPU generator. `replay` seeds all
three. A function with a generator of its own can draw that generator's seed there, for instance by
`random.getrandbits(32)`.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from kdcache.errors import CacheError
from kdcache.hashing.content import Column
from kdcache.hashing.rows import hash_row

In = TypeVar("In")
Out = TypeVar("Out")


def view_seed(seed: int, row_id: int, view: int) -> int:
    """Seed of a row's view, from 0 to 2^63 - 1.

    It is the first 8 bytes, little-endian and without the highest bit, of the SHA-256 of the ASCII text
    "seed:row_id:view", such as "0:17:3".
    """
    digest = hashlib.sha256(f"{seed}:{row_id}:{view}".encode("ascii")).digest()
    return int.from_bytes(digest[:8], "little") & (2**63 - 1)


def replay(transform: Callable[[In], Out], value: In, seed: int) -> Out:
    """`transform(value)` under a seed, whatever random numbers were drawn before. It uses up none of them.

    `random.seed(seed)`, `numpy.random.seed([seed % 2^32, seed // 2^32, 1])` and `manual_seed(seed)` of torch's CPU
    generator come before the call. The three generators' states are put back after it. They belong to the process, not
    to a thread. So do not draw from them in another thread meanwhile. (A DataLoader's workers are processes.)
    """
    with _seeded(seed):
        return transform(value)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    import torch

    python, legacy, generator = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        random.seed(seed)
        np.random.seed([seed % 2**32, seed // 2**32, 1])  # without the 1, it gives Python's numbers
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.default_generator.set_state(generator)


@dataclass(frozen=True)
class Augmenter:
    """How rows become views, for the teacher and for the student alike.

    Args:
        transform: the augmentation, from a value to a value. It may work in place: it gets a copy.
        column: the value of the row that `transform` gets (a position, if rows are tuples); None: the whole row.
        seed: the cache's seed, see `Augmentation`.
    """

    transform: Callable[[Any], Any]
    column: Column | None
    seed: int

    def __call__(self, row: Any, row_id: int, view: int) -> Any:
        """The row as it is in a view."""
        seed = view_seed(self.seed, row_id, view)
        if self.column is None:
            return replay(self.transform, copy.deepcopy(row), seed)
        try:
            value = row[self.column]
        except (LookupError, TypeError):
            raise CacheError(
                f"no column {self.column!r} to augment in the row, {described(row)}; name it with augment_column="
            ) from None
        return _replaced(row, self.column, replay(self.transform, copy.deepcopy(value), seed))

    def check_replay(self, row: Any, row_id: int, times: int = 8) -> None:
        """Refuse an augmentation that gives something else each time. What cannot be compared is trusted.

        Raises:
            CacheError: the first view of this row is not the same every time.
        """
        try:
            found = {hash_row([self(row, row_id, 0)]) for _ in range(times)}
        except CacheError:  # its type has no stable content
            return
        if len(found) > 1:
            raise CacheError(
                f"the augmentation does not replay: under one seed it made {len(found)} different inputs of row id "
                f"{row_id}. It must draw its random numbers from Python's `random`, NumPy's global generator or "
                "torch's CPU generator; seed any other one from these, at each call"
            )


def fetched(dataset: Any, positions: list[int]) -> Sequence[Any]:
    """The rows of a data set at these positions, all at once if the data set can do that."""
    if hasattr(dataset, "__getitems__"):
        rows: Sequence[Any] = dataset.__getitems__(positions)
        return rows
    return [dataset[position] for position in positions]


def _replaced(row: Any, column: Column, value: Any) -> Any:
    """The row with another value in one place. The row itself stays as it is."""
    if isinstance(row, Mapping):
        return {**row, column: value}
    values = list(row)
    values[int(column)] = value  # `column` is a position, since the row had a value there
    return tuple(values) if isinstance(row, tuple) else values


def described(row: Any) -> str:
    if isinstance(row, Mapping):
        return f"a mapping with {', '.join(map(repr, row))}"
    if isinstance(row, tuple | list):
        return f"a {type(row).__name__} of {len(row)} values"
    return f"a {type(row).__name__}"
