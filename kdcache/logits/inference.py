"""`write_logits`: run a model over a data set once and keep its logits, shard by shard.

A shard is the unit of everything: it is computed whole by one process, from batches that never reach into the next
shard, written, and then never touched again. So an interrupted run goes on at the shards that are missing, several
processes share the shards out, and the cache has the same bytes either way.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kdcache.errors import CacheError, KdcacheError
from kdcache.hashing import fingerprint
from kdcache.hashing.content import Column
from kdcache.hashing.digests import BLAKE2B
from kdcache.logits.cache import LogitCache
from kdcache.logits.clearing import clear
from kdcache.logits.format import (
    MANIFEST,
    Augmentation,
    Cost,
    Dtype,
    Fingerprints,
    Header,
    Manifest,
    ShardInfo,
    SplitInfo,
    check_shard_count,
    load_manifest,
    shard_file,
)
from kdcache.logits.inputs import Inputs, read_inputs
from kdcache.logits.predicting.predictor import (
    FirstBatch,
    Predictor,
    default_collate,
    view_maker,
)
from kdcache.logits.shards import (
    Rows,
    check_in_place,
    checked_header,
    exclusive,
    store_manifest,
    store_shard,
    stored_shard,
)
from kdcache.logits.writer import checked_rows
from kdcache.system import processes
from kdcache.system.devices import device_name, peak_memory_mb
from kdcache.system.files import user_path
from kdcache.system.locks import FolderLock

log = logging.getLogger(__name__)
ROWS_PER_SHARD = (
    8192  # fewer than LogitWriter's: a shard is what an interruption costs, and what processes share out
)
Score = Callable[[str, np.ndarray], Mapping[str, float]]
Place = tuple[str, int]  # a shard: its split and its number


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

    A complete cache of the same fingerprints is opened as it is; an incomplete one is completed. Under
    `accelerate launch` or `torchrun` the processes share the shards out, and each returns the opened cache.

    Args:
        model: a torch module, or any callable. It gets a batch (a mapping as keyword arguments, anything else as the
            one argument) and returns logits [b, K], or an object with `.logits`. A module is put in evaluation mode
            meanwhile, and moved to the device.
        dataset: sized and indexable by row position, which becomes the row's id; or a table of Arrow, pandas or
            polars; or a mapping from split names to such data sets. A single one becomes the split "train".
        label_names: the K names in order, or none.
        collate: turns a list of rows into a batch; default: torch's `default_collate`, of mappings without `label`,
            of tuples their first element.
        columns, label: what of a row its hash covers, see `kdcache.hashing.rows.hash_row`; default: everything.
        row_hashes: uint64 [N] (per split, if there are several), instead of hashing the rows here.
        lengths: integers [N] (per split, if there are several); rows of similar length then share a batch, within
            their shard.
        fingerprints: what the logits are computed from; default, for a module: the row hashes, its weights, the first
            batch as it reaches the model, and its class.
        augment: cache views: the model gets each row V times, augmented before `collate` under the seeds of its views,
            and a student replays them (`AugmentedDataset`). See `views` for what it may be. The row hashes stay those
            of the rows as they are.
        augment_column: the value of a row (a position, if rows are tuples) that `augment` takes and returns; default:
            the whole row.
        augmentation: how many views, their seed, and what `augment` is; given exactly when `augment` is.
        score: the model's scores on a split, from its name and its logits [N, K] (or [N, V, K]) in the order of the
            rows, for the manifest. It holds one split's logits in memory.
        run: what this run is, for the manifest's cost.
        rows_per_shard: what an interruption loses at most, what processes share out, and what is held in memory.
        dtype: "float32", or "float16" to round to half the size.
        device: where the batches go, and a module; default, for a module: Accelerate's device if there are several
            processes, else where it is.
        overwrite: replace a complete cache of other fingerprints.

    Raises:
        CacheError: the rows, the logits or the options cannot be used, the cache is another's, or the disk refuses.
    """
    path = user_path(path)
    views = view_maker(path, augment, augment_column, augmentation)
    with _evaluating(model, device) as device:
        collate = collate or default_collate(label if isinstance(label, str) else None)
        predictor = Predictor(path, _numbers_only(path, model), collate, batch_size, device, views)
        inputs = read_inputs(path, dataset, columns, label, row_hashes, lengths)
        first = predictor.first(inputs.splits)
        header = checked_header(
            path,
            classes=first.classes,
            label_names=list(label_names),
            dtype=dtype,
            rows_per_shard=rows_per_shard,
            fingerprints=fingerprints or _fingerprints(path, model, inputs.hashes, first),
            augmentation=augmentation,
            row_hash=BLAKE2B,
        )
        _write(Job(path, header, inputs, predictor), overwrite, score, run)
    return LogitCache(path, expect=header.fingerprints)


@dataclass(frozen=True)
class Job:
    """The cache to be written; the same on every process."""

    path: Path
    header: Header
    inputs: Inputs
    predictor: Predictor

    def differences(self, manifest: Manifest) -> list[str]:
        """The header's fields in which an existing manifest differs, or its rows; empty: it is the same cache."""
        header = self.header
        fields = [key for key in Header.model_fields if getattr(manifest, key) != getattr(header, key)]
        rows = {name: split.rows for name, split in manifest.splits.items()}
        return fields + ["rows"] * (
            rows != {name: len(hashes) for name, hashes in self.inputs.hashes.items()}
        )

    def places(self) -> list[Place]:
        """All shards, in order."""
        size = self.header.rows_per_shard
        return [
            (name, k) for name, hashes in self.inputs.hashes.items() for k in range(-(-len(hashes) // size))
        ]

    def positions(self, place: Place) -> np.ndarray:
        """The rows of a shard, int64 [n]."""
        split, index = place
        start = index * self.header.rows_per_shard
        return np.arange(start, min(start + self.header.rows_per_shard, len(self.inputs.hashes[split])))

    def stored(self, place: Place) -> tuple[ShardInfo, Rows] | None:
        """The shard if it is on disk, whole, and of these very rows."""
        positions = self.positions(place)
        shard = stored_shard(self.path, self.header, *place, len(positions))
        if shard is None:
            return None
        hashes = self.inputs.hashes[place[0]][positions]
        same = np.array_equal(shard[1].ids, positions) and np.array_equal(shard[1].row_hashes, hashes)
        return shard if same else None

    def compute(self, place: Place) -> Rows:
        """The shard's rows, from the model."""
        split, positions = place[0], self.positions(place)
        lengths = self.inputs.lengths_at(split, positions)
        logits = self.predictor.logits(self.inputs.splits[split], positions, lengths)
        hashes = self.inputs.hashes[split][positions]
        return checked_rows(f"{self.path}: split {split!r}", positions, hashes, logits, self.header)


def _write(job: Job, overwrite: bool, score: Score | None, run: str) -> None:
    """Write the cache, unless it is there already."""
    try:
        check_shard_count(len(job.places()))
    except ValueError as error:
        raise CacheError(f"{job.path}: {error}") from None
    with ExitStack() as held:
        locks: list[FolderLock] = []  # the main process's
        if not processes.from_main(lambda: _is_complete(job, overwrite, held, locks)):
            _complete(job, score, run, locks)


def _is_complete(job: Job, overwrite: bool, held: ExitStack, locks: list[FolderLock]) -> bool:
    """Whether the cache is there already; if not, lock the folder and clear what does not belong."""
    if (job.path / MANIFEST).exists():
        different = job.differences(load_manifest(job.path))
        if different and not overwrite:
            raise CacheError(
                f"{job.path}: holds another complete cache (it differs in {', '.join(different)}); "
                "choose another path, or pass overwrite=True to replace it"
            )
        if not different and _is_whole(job.path):
            return True
    locks.append(held.enter_context(exclusive(job.path)))
    clear(job.path, keep={shard_file(*place) for place in job.places()})
    return False


def _is_whole(path: Path) -> bool:
    try:
        LogitCache(path).verify("quick")
    except CacheError as error:
        log.warning("%s; writing what is missing again", error)
        return False
    return True


def _complete(job: Job, score: Score | None, run: str, locks: Sequence[FolderLock]) -> None:
    """Write the shards that are missing, each process its share, then the manifest."""
    start = time.perf_counter()
    places = job.places()
    share = places[processes.rank() :: processes.count()]
    infos, computed = _write_shards(job, share, locks)
    together = processes.gathered([(infos, computed, time.perf_counter() - start)])
    if processes.is_main():
        shards = {place: info for part, _, _ in together for place, info in part.items()}
        splits = {
            name: SplitInfo(rows=len(hashes), shards=[shards[place] for place in places if place[0] == name])
            for name, hashes in job.inputs.hashes.items()
        }
        seconds = max(part[2] for part in together)
        cost = _cost(sum(part[1] for part in together), seconds, run, job.predictor.device)
        scores = {name: score(name, _whole(job, name)) for name in splits} if score else {}
        _check_in_place(locks)
        store_manifest(job.path, job.header, splits, scores, cost)
    processes.wait()


def _check_in_place(locks: Sequence[FolderLock]) -> None:
    for lock in locks:
        check_in_place(lock)


def _write_shards(
    job: Job, places: Sequence[Place], locks: Sequence[FolderLock]
) -> tuple[dict[Place, ShardInfo], int]:
    """The facts of these shards, and how many rows had to be computed.

    A second thread encodes and writes a shard while the model computes the next.
    """
    infos: dict[Place, ShardInfo] = {}
    writing: dict[Place, Future[ShardInfo]] = {}
    computed = 0
    progress = tqdm(places, desc="shards", disable=not sys.stderr.isatty(), leave=False)
    with ThreadPoolExecutor(1) as pool:
        for place in progress:
            stored = job.stored(place)
            if stored:
                infos[place] = stored[0]
                continue
            rows = job.compute(place)
            computed += len(rows)
            _check_in_place(locks)
            _collect(writing, infos)  # one shard waits at most: memory stays bounded
            writing[place] = pool.submit(store_shard, job.path, job.header, *place, rows)
        _collect(writing, infos)
    return infos, computed


def _collect(writing: dict[Place, Future[ShardInfo]], infos: dict[Place, ShardInfo]) -> None:
    while writing:
        place, future = writing.popitem()
        infos[place] = future.result()


def _whole(job: Job, split: str) -> np.ndarray:
    """A split's logits [N, K] or [N, V, K] in the order of the rows, read back from its shards."""
    parts = [job.stored(place) for place in job.places() if place[0] == split]
    empty = np.empty((0, *job.header.row_shape), job.header.dtype)
    return np.concatenate([empty, *(part[1].logits for part in parts if part)]).astype(np.float32)


def _fingerprints(
    path: Path, model: Any, hashes: Mapping[str, np.ndarray], first: FirstBatch
) -> Fingerprints:
    import torch

    if not isinstance(model, torch.nn.Module):
        raise CacheError(
            f"{path}: a {type(model).__name__} has no weights to fingerprint; say with `fingerprints` what its "
            "logits are computed from"
        )
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    try:
        return Fingerprints(
            data=fingerprint.of_value(hashes),
            weights=fingerprint.of_value(model.state_dict()),
            preprocessing=fingerprint.of_value(first.batch),
            code=fingerprint.of_json(kind),
        )
    except KdcacheError as error:
        raise CacheError(f"{path}: {error}; pass `fingerprints` yourself") from None


def _cost(rows: int, seconds: float, run: str, given: Any) -> Cost:
    """What computing the rows took; a clock that stands still says nothing of the speed."""
    import torch

    device = torch.device(given or "cpu")
    return Cost(
        seconds=seconds,
        rows_per_second=rows / seconds if seconds > 0 else 0.0,
        device=device_name(device),
        peak_memory_mb=peak_memory_mb(device),
        run=run,
    )


@contextmanager
def _evaluating(model: Any, device: Any) -> Iterator[Any]:
    """The model in evaluation mode on its device, which is given; then back in its mode. A callable stays as it is."""
    import torch

    if not isinstance(model, torch.nn.Module):
        yield device
        return
    if device is None and processes.count() > 1:
        device = processes.device()
    if device is None:
        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    was_training = model.training
    model.to(device).eval()
    try:
        yield device
    finally:
        model.train(was_training)


def _numbers_only(path: Path, model: Any) -> Callable[..., Any]:
    """The model, whose logits are looked at before they become float32: what is no real number is refused."""

    def run(*batch: Any, **columns: Any) -> Any:
        output = model(*batch, **columns)
        logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
        return _real(path, logits)

    return run


def _real(path: Path, logits: Any) -> Any:
    """Logits as they can be stored; whatever is no array or tensor is left to the predictor, which refuses it.

    Raises:
        CacheError: they are complex, texts or objects, or a tensor that is sparse, quantized or without values.
    """
    kind = getattr(logits, "dtype", None)
    if not hasattr(logits, "detach"):
        usable = kind is None or kind.kind in "fiub"
    else:
        odd = logits.is_complex() or logits.is_quantized or logits.is_meta
        usable = str(logits.layout) == "torch.strided" and not odd
    if not usable:
        what = f"{type(logits).__name__} of {kind}"
        raise CacheError(f"{path}: expected dense real numbers as logits from the model, found a {what}")
    if not hasattr(logits, "detach"):
        return logits
    return logits.detach().float() if str(kind) == "torch.bfloat16" else logits.detach()
