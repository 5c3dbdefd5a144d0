"""Run a model over rows, in batches: from rows to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.errors import CacheError
from kdcache.hashing.content import Column
from kdcache.logits.predicting.views import Augmenter, fetched
from kdcache.logits.records import Augmentation


class Predictor:
    """The model, from rows to logits."""

    def __init__(
        self,
        path: Path,
        model: Any,
        collate: Callable[[list[Any]], Any],
        batch_size: int,
        device: Any,
        views: Views | None,
    ) -> None:
        if batch_size < 1:
            raise CacheError(f"{path}: batch_size must be 1 or more, found {batch_size}")
        self.path, self.model, self.collate = path, model, collate
        self.batch_size, self.device, self.views = batch_size, device, views
        self.classes: int | None = None  # K, known after the model has run once

    def batches(self, dataset: Any, positions: np.ndarray) -> Iterator[Any]:
        """The rows at these positions as the model gets them: one batch, or one for each view."""
        ids = positions.tolist()
        rows: Any = fetched(dataset, ids)  # `collate` passes on the whole batch that a Batcher gives
        if self.views is None:
            yield self.collate(rows)
            return
        for view in range(self.views.count):
            yield self.collate(
                [self.views.augmenter(row, row_id, view) for row, row_id in zip(rows, ids, strict=True)]
            )

    def __call__(self, batch: Any) -> Any:
        """Logits [b, K] on a batch, on the model's device."""
        import torch
        from accelerate.utils import send_to_device

        if self.device is not None:
            batch = send_to_device(batch, self.device)
        with torch.inference_mode():
            output = self.model(**batch) if isinstance(batch, Mapping) else self.model(batch)
        return self._logits_in(output)

    def _logits_in(self, output: Any) -> Any:
        """The logits [b, K] in what the model returned.

        Raises:
            CacheError: the model returned neither an array of two dimensions nor an object that has one as `.logits`.
        """
        logits = (
            output["logits"]
            if type(output) is dict and "logits" in output
            else getattr(output, "logits", output)
        )
        shape = getattr(logits, "shape", None)
        if shape is None or len(shape) != 2:
            what = f"{type(logits).__name__} {list(shape)}" if shape is not None else type(logits).__name__
            raise CacheError(
                f"{self.path}: expected logits [rows, classes] from the model, found {what}; wrap it in a function "
                "that returns them, or an object with them as `.logits`"
            )
        if logits.shape[1] != (self.classes or logits.shape[1]):
            raise CacheError(
                f"{self.path}: the model gave {self.classes} classes at first, then {logits.shape[1]}; all rows need "
                "the same classes"
            )
        self.classes = int(logits.shape[1])
        return logits

    def logits(self, dataset: Any, positions: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
        """Logits [n, K] or [n, V, K] of the rows at `positions`, in that order."""
        order = np.arange(len(positions)) if lengths is None else np.argsort(lengths, kind="stable")
        parts = [
            [
                self(batch)
                for batch in self.batches(dataset, positions[order[start : start + self.batch_size]])
            ]
            for start in range(0, len(order), self.batch_size)
        ]
        by_view = [_concatenated(list(view)) for view in zip(*parts, strict=True)]
        found = by_view[0] if self.views is None else np.stack(by_view, axis=1)
        if len(found) != len(positions):
            raise CacheError(
                f"{self.path}: the model gave {len(found)} rows of logits for {len(positions)} rows"
            )
        logits = np.empty_like(found)
        logits[order] = found
        return logits

    def first(self, splits: Mapping[str, Any]) -> FirstBatch:
        """Run the first batch of the first split that has rows (their first view)."""
        for rows in splits.values():
            if len(rows):
                if self.views:
                    self.views.check_replay(self.path, fetched(rows, [0])[0])
                batch = next(self.batches(rows, np.arange(min(self.batch_size, len(rows)))))
                return FirstBatch(self(batch).shape[1], batch)
        raise CacheError(f"{self.path}: the data set has no rows")


@dataclass(frozen=True)
class Views:
    """How many views each row has, and how they are made."""

    count: int
    augmenter: Augmenter

    def check_replay(self, path: Path, first_row: Any) -> None:
        try:
            self.augmenter.check_replay(first_row, 0)
        except CacheError as error:
            raise CacheError(f"{path}: {error}") from None


def view_maker(
    path: Path,
    augment: Callable[[Any], Any] | None,
    column: Column | None,
    augmentation: Augmentation | None,
) -> Views | None:
    if augment is not None and augmentation is not None:
        return Views(augmentation.views, Augmenter(augment, column, augmentation.seed))
    if augment is None and augmentation is None and column is None:
        return None
    raise CacheError(
        f"{path}: views need both `augment`, the function, and `augmentation`, an Augmentation that says how many "
        "views, their seed and what the function is; give both or neither (and `augment_column` only with them)"
    )


@dataclass(frozen=True)
class FirstBatch:
    """The first batch as the model gets it, and the number of classes that come out."""

    classes: int
    batch: Any


def _concatenated(parts: list[Any]) -> np.ndarray:
    import torch

    if all(isinstance(part, torch.Tensor) for part in parts):
        return torch.cat(parts).float().cpu().numpy()
    return np.concatenate([np.asarray(part) for part in parts]).astype(np.float32, copy=False)


def default_collate(label: str | None) -> Callable[[list[Any]], Any]:
    def collate(rows: list[Any]) -> Any:
        from torch.utils.data import default_collate

        if isinstance(rows[0], Mapping):
            return default_collate([{key: row[key] for key in row if key != label} for row in rows])
        return default_collate([row[0] if isinstance(row, tuple | list) else row for row in rows])

    return collate
