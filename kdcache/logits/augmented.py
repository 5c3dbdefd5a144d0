"""A student's rows, augmented into exactly the views whose logits a teacher's cache holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcache.errors import CacheError
from kdcache.hashing.content import Column
from kdcache.hashing.frames import is_dataset
from kdcache.logits.join import find_rows
from kdcache.logits.joiner import Joiner
from kdcache.logits.predicting.views import Augmenter, described, fetched

if TYPE_CHECKING:
    import torch

    from kdcache.logits.cache import LogitCache


class AugmentedDataset:
    """Rows as the teacher saw them, each with the logits of exactly its view: a map-style data set for a DataLoader.

    Its use::

        data = AugmentedDataset(cache, rows, crop_and_flip, augment_column="image", columns=["image"], label="label")
        loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, num_workers=2)
        for epoch in range(epochs):
            data.set_epoch(epoch)  # view epoch % V
            for batch in loader:
                batch["image"], batch["teacher_logits"]  # the replayed inputs; float32 [n, K]

    As in `LogitCache.join`, a row is found by its id or its content, and checked by its hash before the augmentation.
    The augmented row depends only on the row and the epoch. The order, the workers and the random numbers drawn before
    do not matter. Call `set_epoch` between epochs. It also reaches workers that stay (`persistent_workers`). Each
    worker keeps the split in memory. Forked workers share it if it was read before the fork.

    Args:
        cache: a cache with views.
        dataset: sized and indexable by position. Its rows are mappings, tuples or lists, not augmented yet.
        augment: the same augmentation as for the teacher's inputs.
        split: the cache's split that the rows come from.
        augment_column: the value of a row that `augment` gets, as in `write_logits`; None for the whole row.
        column: name of the new value. In a tuple or list, the new value comes last.
        id_column, hash_column, columns, label: how to tell rows apart, see `join.join`.

    Raises:
        CacheError: the cache has no views, or no such split. Later, when rows are read: a row is not in the cache, or
            the cache holds another row under its id.
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
        id_column: Column | None = None,
        hash_column: Column | None = "row_hash",
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
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # so that workers see it change

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. It decides the view of every row: `epoch % V`."""
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
            raise CacheError(f"an epoch must be an integer of 0 or more, found {epoch!r}")
        self._epoch.fill_(epoch)

    @property
    def view(self) -> int:
        """The number of the view of all rows in this epoch."""
        return int(self._epoch) % self.views

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Several rows at once, as a DataLoader asks for them."""
        import torch

        rows, view = fetched(self.dataset, indices), self.view
        content = rows if self._content is self.dataset else fetched(self._content, indices)
        ids, logits = find_rows(self._joiner, content, view)
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
            f"the augmentation made {described(row)} of a row; let it return a mapping, tuple or list, or name with "
            "augment_column= the one value it is for"
        )
