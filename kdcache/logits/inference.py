"""`write_logits`: run a model over a data set once and keep its logits, shard by shard.

`jobs.py` has the part that all caches share: which shards are kept, who computes the others, and how they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.errors import CacheError, KdcacheError
from kdcache.hashing import fingerprint
from kdcache.hashing.content import Column, type_name
from kdcache.hashing.digests import BLAKE2B
from kdcache.logits.cache import LogitCache
from kdcache.logits.format import Dtype, Header, Manifest
from kdcache.logits.inputs import Inputs, read_inputs
from kdcache.logits.jobs import Job, Place, evaluating, write_cache
from kdcache.logits.options import check_function, check_integer, check_text, names
from kdcache.logits.predicting.predictor import Predictor, default_collate, view_maker
from kdcache.logits.records import Augmentation, Fingerprints
from kdcache.logits.returned import returned_logits
from kdcache.logits.rows import CachedSplit
from kdcache.logits.shards import checked_header
from kdcache.logits.writer import checked_rows
from kdcache.system.files import user_path

ROWS_PER_SHARD = (
    8192  # fewer than LogitWriter's: an interruption loses a shard, and processes share the work by shards
)
FIRST_ROWS = 64  # whose inputs are fingerprinted
Score = Callable[[str, np.ndarray], Mapping[str, float]]


def write_logits(
    model: Any,
    dataset: Any,
    path: str | Path,
    *,
    label_names: Sequence[str] = (),
    collate: Callable[[list[Any]], Any] | None = None,
    batch_size: int = 64,
    columns: Sequence[Column] | None = None,
    label: Column | None = None,
    row_hashes: Any = None,
    lengths: Any = None,
    fingerprints: Fingerprints | None = None,
    augment: Callable[[Any], Any] | None = None,
    augment_column: Column | None = None,
    augmentation: Augmentation | None = None,
    score: Score | None = None,
    run: str = "",
    rows_per_shard: int = ROWS_PER_SHARD,
    dtype: Dtype = "float32",
    device: Any = None,
    overwrite: bool = False,
) -> LogitCache:
    """Write the model's raw logits on every row of a data set, and open the cache.

    A complete cache with the same fingerprints and rows is opened as it is. An incomplete cache is completed. Under
    `accelerate launch` or `torchrun` the processes divide the shards, and each process returns the opened cache.

    Args:
        model: a torch module, or any callable. It gets a batch (a mapping as keyword arguments, anything else as the
            only argument) and returns logits [b, K], or an object with `.logits`. A module (that of a bound method,
            too) is moved to the device, and is in evaluation mode during the call. One that Accelerate has spread over
            devices or offloaded (`device_map`) is not moved.
        dataset: sized and indexable by row position, which becomes the row's id; or a table of Arrow, pandas or
            polars; or a mapping from split names to such data sets. A single data set becomes the split "train".
        label_names: the K names in order, or none.
        collate: turns a list of rows into a batch. Default: torch's `default_collate` of mappings without `label`, or
            of the first elements of tuples.
        columns, label: the part of a row that its hash covers, see `kdcache.hashing.rows.hash_row`; default: all.
        row_hashes: uint64 [N] (per split, if there are several), if you have hashed the rows already.
        lengths: integers [N] (per split, if there are several). Rows of similar length in a shard then share a batch.
        fingerprints: what the logits are computed from. Default, for a module: the row hashes, its weights, the first
            64 rows as one batch (so `batch_size` may change), and its class's name. A change
            that shows in none of these (such as that of a `collate` which leaves these rows as they are, or of the
            class's code) is not noticed. Then name it in `fingerprints`, or pass `overwrite=True`.
        augment: an augmentation, to cache views. The model gets each row V times, augmented before `collate` with the
            seed of each view, and a student replays these views (`AugmentedDataset`). `views` says what it may be. The
            row hashes are those of the rows before the augmentation.
        augment_column: the value of a row (a position, if rows are tuples) that `augment` takes and returns. Default:
            the whole row.
        augmentation: how many views, their seed, and a description of `augment`. Give both or neither.
        score: computes the model's scores for the manifest, from a split's name and its logits [N, K] (or [N, V, K])
            in the order of the rows. One split's logits are then held in memory.
        run: a name for this run, for cost.json.
        rows_per_shard: the largest number of rows that an interruption loses, and that are held in memory. Processes
            divide the work by shards.
        dtype: "float32", or "float16" to round to half the size.
        device: where batches and a module go. Default, for a module: Accelerate's device if there are several
            processes, else the device that it is on.
        overwrite: replace a complete cache that has other fingerprints or rows.

    Raises:
        CacheError: the rows, the logits or the options cannot be used, the folder holds another cache, or writing
            fails.
    """
    path = user_path(path)
    check_integer(path, "batch_size", batch_size)
    check_text(path, "run", run)
    check_function(path, "score", score)
    label_names = names(path, "label_names", label_names)
    views = view_maker(path, augment, augment_column, augmentation)
    with evaluating(model, device) as device:
        collate = collate or default_collate(label if isinstance(label, str) else None)
        predictor = Predictor(path, _numbers_only(path, model), collate, batch_size, device, views)
        inputs = read_inputs(path, dataset, columns, label, row_hashes, lengths)
        first = predictor.first(inputs.splits)
        header = checked_header(
            path,
            Header,
            classes=first.classes,
            label_names=label_names,
            dtype=dtype,
            rows_per_shard=rows_per_shard,
            fingerprints=fingerprints or _fingerprints(path, model, inputs, predictor),
            augmentation=augmentation,
            row_hash=BLAKE2B,
        )
        job = LogitJob(path, Manifest, header, inputs.hashes, device, header, inputs, predictor, score)
        write_cache(job, overwrite, run)
    return LogitCache(path, expect=header.fingerprints)


@dataclass(frozen=True)
class LogitJob(Job[CachedSplit]):
    """A cache of one row of logits for each row of the data."""

    layout: Header
    inputs: Inputs
    predictor: Predictor
    score: Score | None

    def compute(self, place: Place) -> CachedSplit:
        split, positions = place[0], self.positions(place)
        lengths = self.inputs.lengths_at(split, positions)
        logits = self.predictor.logits(self.inputs.splits[split], positions, lengths)
        context = f"{self.path}: split {split!r}"
        return checked_rows(context, positions, self.hashes[split][positions], logits, self.layout)

    def scores(self, split: str) -> Mapping[str, float] | None:
        if self.score is None:
            return None
        scores = self.score(split, self._read_back(split))
        if not isinstance(scores, Mapping):
            raise CacheError(
                f"{self.path}: split {split!r}: score must return a mapping from names to numbers, found "
                f"{type_name(scores)}; the logits are kept, so correct it and run again"
            )
        return scores

    def _read_back(self, split: str) -> np.ndarray:
        """A split's logits [N, K] or [N, V, K] in the order of the rows, read back from its shards."""
        parts = [self.stored(place) for place in self.places() if place[0] == split]
        empty = np.empty((0, *self.layout.row_shape), self.layout.dtype)
        return np.concatenate([empty, *(part[1].logits for part in parts if part)]).astype(np.float32)


def _fingerprints(path: Path, model: Any, inputs: Inputs, predictor: Predictor) -> Fingerprints:
    import torch

    if not isinstance(model, torch.nn.Module):
        raise CacheError(
            f"{path}: a {type(model).__name__} has no weights to fingerprint; say with `fingerprints` what its "
            "logits are computed from"
        )
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    try:
        return Fingerprints(
            data=fingerprint.of_value(inputs.hashes),
            weights=fingerprint.of_value(model.state_dict()),
            preprocessing=fingerprint.of_value(_first_rows(inputs, predictor)),
            code=fingerprint.of_json(kind),
        )
    except KdcacheError as error:
        raise CacheError(f"{path}: {error}") from None


def _first_rows(inputs: Inputs, predictor: Predictor) -> Any:
    """The first rows as one batch, whatever `batch_size` is: a smaller one is no reason to lose stored shards."""
    rows = next(
        rows for rows in inputs.splits.values() if len(rows)
    )  # a data set without rows is refused before
    return next(predictor.batches(rows, np.arange(min(FIRST_ROWS, len(rows)))))


def _numbers_only(path: Path, model: Any) -> Callable[..., Any]:
    """The model, wrapped so that its logits are checked before they become float32: all must be real numbers."""

    def run(*batch: Any, **columns: Any) -> Any:
        logits = returned_logits(path, model(*batch, **columns))
        return logits.float() if str(getattr(logits, "dtype", "")) == "torch.bfloat16" else logits

    return run
