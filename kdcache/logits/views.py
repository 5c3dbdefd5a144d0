"""Views: logits of augmented inputs, and the student's way back to exactly those inputs.

A teacher that saw an image cropped and flipped has logits of that crop, not of the image. So a cache of augmented
inputs keeps V views of each row, each with a seed of its own, and the student replays the seed: its input is bit for
bit what the teacher saw (FKD, Shen & Xing 2022, arXiv 2112.01528, which keeps the crops' coordinates; TinyViT, Wu et
al. 2022, arXiv 2207.10666, which keeps seeds, as here).

A seed is not stored but derived (`view_seed`). The augmentation is any function of a row, or of one of its values,
that draws its random numbers from Python's `random`, NumPy's global generator or torch's CPU generator; `replay` seeds
all three. One with a generator of its own can draw that one's seed there, for instance `random.getrandbits(32)`.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kdcache.errors import CacheError
from kdcache.logits.join import Joiner
from kdcache.rows import Column, hash_row, is_dataset

if TYPE_CHECKING:
    import torch

    from kdcache.logits.reader import LogitCache

In = TypeVar("In")
Out = TypeVar("Out")


def view_seed(seed: int, row_id: int, view: int) -> int:
    """Seed of a row's view, from 0 to 2^63 - 1.

    The first 8 bytes, little-endian and without the highest bit, of the SHA-256 of the ASCII text "seed:row_id:view",
    such as "0:17:3".
    """
    digest = hashlib.sha256(f"{seed}:{row_id}:{view}".encode("ascii")).digest()
    return int.from_bytes(digest[:8], "little") & (2**63 - 1)


def replay(transform: Callable[[In], Out], value: In, seed: int) -> Out:
    """`transform(value)` under a seed, whatever random numbers were drawn before; none of them are used up.

    `random.seed(seed)`, `numpy.random.seed([seed % 2^32, seed // 2^32, 1])` and `manual_seed(seed)` of torch's CPU
    generator come before the call; the three generators' states are put back after it. They belong to the process, not
    to a thread: do not draw from them in another thread meanwhile. (A DataLoader's workers are processes.)
    """
    with _seeded(seed):
        return transform(value)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    import torch

    python, legacy, generator = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        random.seed(seed)
        np.random.seed([seed % 2**32, seed // 2**32, 1])  # without the 1, Python's very numbers
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
        column: the value of the row it is given (a position, if rows are tuples); None: the whole row.
        seed: the cache's, see `Augmentation`.
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
                f"no column {self.column!r} to augment in the row, {_described(row)}; name it with augment_column="
            ) from None
        return _replaced(row, self.column, replay(self.transform, copy.deepcopy(value), seed))

    def check_replay(self, row: Any, row_id: int, times: int = 8) -> None:
        """Refuse an augmentation that gives something else each time; what cannot be compared is taken on trust.

        Raises:
            CacheError: the first view of this row is not the same every time.
        """
        try:
            found = {hash_row([self(row, row_id, 0)]) for _ in range(times)}
        except CacheError:  # of a type without a stable content
            return
        if len(found) > 1:
            raise CacheError(
                f"the augmentation does not replay: under one seed it made {len(found)} different inputs of row id "
                f"{row_id}. It must draw its random numbers from Python's `random`, NumPy's global generator or "
                "torch's CPU generator; seed any other one from these, at each call"
            )


class AugmentedDataset:
    """Rows as the teacher saw them, each with the logits of exactly that view: a map-style data set for a DataLoader.

        data = AugmentedDataset(cache, rows, crop_and_flip, augment_column="image", columns=["image"], label="label")
        loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, num_workers=2)
        for epoch in range(epochs):
            data.set_epoch(epoch)  # view epoch % V
            for batch in loader:
                batch["image"], batch["teacher_logits"]  # the replayed inputs; float32 [n, K]

    A row is found by its id, or by its content, and checked by the hash of the row as it is before the augmentation;
    as in `LogitCache.join`. What a row becomes depends on the row and the epoch alone, not on the order, the workers or
    the random numbers drawn before. Workers that stay (`persistent_workers`) hear of `set_epoch` too; call it between
    epochs. Each worker keeps the split in memory: forked ones share it if it was read before.

    Args:
        cache: a cache with views.
        dataset: sized and indexable by position; its rows are mappings, tuples or lists, not augmented yet.
        augment: the very augmentation that the teacher's inputs went through.
        split: the cache's split that the rows come from.
        augment_column: the value of a row that `augment` is given, as in `write_logits`; None: the whole row.
        column: name of the new value; a tuple or list has it at its end.
        id_column, hash_column, columns, label: how rows are told apart, see `join.join`.

    Raises:
        CacheError: the cache has no views, or no such split; later, a row is not in it, or is another row there.
    """

    def __init__(
        self,
        cache: LogitCache,
        dataset: Any,
        augment: Callable[[Any], Any],
        split: str = "train",
        *,
        augment_column: Column | None = None,
        column: str = "teacher_logits",
        id_column: str = "id",
        hash_column: str | None = "row_hash",
        columns: Sequence[Column] | None = None,
        label: Column | None = None,
    ) -> None:
        import torch

        augmentation = cache.manifest.augmentation
        if augmentation is None:
            raise CacheError(
                f"{cache.path}: has no views: its logits are of the rows as they are, not of augmented ones; cache "
                "them with write_logits(..., augment=..., augmentation=...), or train without augmentation"
            )
        if split not in cache.splits:
            raise CacheError(f"{cache.path}: no split {split!r} in this cache ({', '.join(cache.splits)})")
        self.dataset, self.views = dataset, augmentation.views
        formatted = is_dataset(dataset) and dataset.format["type"] is not None
        self._content = dataset.with_format(None) if formatted else dataset  # what the hashes cover
        self._augmenter = Augmenter(augment, augment_column, augmentation.seed)
        self._joiner = Joiner(cache, split, column, id_column, hash_column, columns, label)
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # workers see it change

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, which decides the view of every row: `epoch % V`."""
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
            raise CacheError(f"an epoch must be an integer of 0 or more, found {epoch!r}")
        self._epoch.fill_(epoch)

    @property
    def view(self) -> int:
        """The view that rows have in this epoch."""
        return int(self._epoch) % self.views

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Several rows at once, as a DataLoader asks for them."""
        import torch

        rows, view = fetched(self.dataset, indices), self.view
        content = rows if self._content is self.dataset else fetched(self._content, indices)
        ids, logits = self._joiner.rows(content, view)
        augmented = (
            self._augmenter(row, row_id, view) for row, row_id in zip(rows, ids.tolist(), strict=True)
        )
        return [
            self._with_logits(row, torch.from_numpy(values))
            for row, values in zip(augmented, logits, strict=True)
        ]

    def _with_logits(self, row: Any, logits: torch.Tensor) -> Any:
        if isinstance(row, Mapping):
            return {**row, self._joiner.column: logits}
        if isinstance(row, tuple):
            return (*row, logits)
        if isinstance(row, list):
            return [*row, logits]
        raise CacheError(
            f"the augmentation made {_described(row)} of a row; let it return a mapping, tuple or list, or name with "
            "augment_column= the one value it is for"
        )


def fetched(dataset: Any, positions: list[int]) -> Sequence[Any]:
    """The rows of a data set at these positions; in one go, where it can."""
    if hasattr(dataset, "__getitems__"):
        rows: Sequence[Any] = dataset.__getitems__(positions)
        return rows
    return [dataset[position] for position in positions]


def _replaced(row: Any, column: Column, value: Any) -> Any:
    """The row with another value in one place; the row itself stays as it is."""
    if isinstance(row, Mapping):
        return {**row, column: value}
    values = list(row)
    values[int(column)] = value  # a position, since the row had a value there
    return tuple(values) if isinstance(row, tuple) else values


def _described(row: Any) -> str:
    if isinstance(row, Mapping):
        return f"a mapping with {', '.join(map(repr, row))}"
    if isinstance(row, tuple | list):
        return f"a {type(row).__name__} of {len(row)} values"
    return f"a {type(row).__name__}"
