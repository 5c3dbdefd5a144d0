"""Compute any kind of cache shard by shard. Stored shards are kept. Missing shards are divided among the processes.

One process computes a whole shard, from batches that never reach into the next shard, writes it, and never touches it
again. So an interrupted run continues with the missing shards, and several processes can divide the shards. The cache
has the same bytes either way.
"""

from __future__ import annotations

import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kdcache.errors import CacheError
from kdcache.logits.clearing import clear
from kdcache.logits.disk import ShardedCache
from kdcache.logits.manifests import load_manifest
from kdcache.logits.records import (
    MANIFEST,
    Cost,
    Layout,
    Sealed,
    ShardInfo,
    SplitInfo,
    check_shard_count,
    shard_file,
)
from kdcache.logits.rows import Rows
from kdcache.logits.shards import (
    check_in_place,
    exclusive,
    store_manifest,
    store_shard,
    stored_rows,
    stored_shard,
)
from kdcache.system import processes
from kdcache.system.devices import device_name, peak_memory_mb
from kdcache.system.locks import FolderLock

log = logging.getLogger(__name__)
Place = tuple[str, int]  # a shard: its split and its number
R = TypeVar("R", bound=Rows)


@dataclass(frozen=True)
class Job(ABC, Generic[R]):
    """The cache to be written. It is the same on every process."""

    path: Path
    sort: type[Sealed]
    header: Layout
    hashes: Mapping[str, npt.NDArray[np.uint64]]  # the rows' hashes [N] for each split
    device: Any  # the device that computes the logits

    @abstractmethod
    def compute(self, place: Place) -> R:
        """Compute the shard's rows with the model."""

    def scores(self, split: str) -> Mapping[str, float] | None:
        """The model's scores on a split whose shards are all stored; None if it is not scored."""
        return None

    def differences(self, manifest: Sealed) -> list[str]:
        """What differs in an existing cache: header fields, or the rows. Empty if it is the same cache."""
        header = self.header
        fields = [key for key in type(header).model_fields if getattr(manifest, key) != getattr(header, key)]
        rows = {name: split.rows for name, split in manifest.splits.items()}
        others = rows != {name: len(hashes) for name, hashes in self.hashes.items()}
        if (
            not fields and not others
        ):  # fingerprints of the caller may say too little; the rows' hashes still tell
            others = any(self._has_others(place) for place in self.places())
        return fields + ["rows"] * others

    def places(self) -> list[Place]:
        """All shards, in order."""
        size = self.header.rows_per_shard
        return [(name, k) for name, hashes in self.hashes.items() for k in range(-(-len(hashes) // size))]

    def positions(self, place: Place) -> np.ndarray:
        """The positions of a shard's rows in the split, int64 [n]."""
        split, index = place
        start = index * self.header.rows_per_shard
        return np.arange(start, min(start + self.header.rows_per_shard, len(self.hashes[split])))

    def stored(self, place: Place) -> tuple[ShardInfo, R] | None:
        """The shard, if it is on disk, is whole, and has exactly these rows; else None."""
        shard = stored_shard(self.path, self.header, *place, len(self.positions(place)))
        return shard if shard and self._are_of(place, shard[1].ids, shard[1].row_hashes) else None

    def _has_others(self, place: Place) -> bool:
        """Whether the shard is on disk and can be read, and has other rows."""
        found = stored_rows(self.path, self.header, *place, len(self.positions(place)))
        return found is not None and not self._are_of(place, *found)

    def _are_of(self, place: Place, ids: npt.NDArray[np.int64], row_hashes: npt.NDArray[np.uint64]) -> bool:
        """Whether these are exactly the shard's rows."""
        positions = self.positions(place)
        return np.array_equal(ids, positions) and np.array_equal(row_hashes, self.hashes[place[0]][positions])


def write_cache(job: Job[Any], overwrite: bool, run: str) -> None:
    """Write the cache, unless it is complete already."""
    try:
        check_shard_count(len(job.places()))
    except ValueError as error:
        raise CacheError(f"{job.path}: {error}") from None
    with ExitStack() as held:
        locks: list[FolderLock] = []  # only the main process has locks
        if not processes.from_main(lambda: _is_complete(job, overwrite, held, locks)):
            _complete(job, run, locks)


def _is_complete(job: Job[Any], overwrite: bool, held: ExitStack, locks: list[FolderLock]) -> bool:
    """Whether the cache is complete already. If not, lock the folder and remove an earlier cache's files."""
    if (job.path / MANIFEST).exists():
        different = job.differences(load_manifest(job.path, job.sort))
        if different and not overwrite:
            raise CacheError(
                f"{job.path}: holds another complete cache (it differs in {', '.join(different)}); "
                "choose another path, or pass overwrite=True to replace it"
            )
        if not different and _is_whole(job):
            return True
    locks.append(held.enter_context(exclusive(job.path)))
    clear(job.path, keep={shard_file(*place) for place in job.places()})
    return False


def _is_whole(job: Job[Any]) -> bool:
    try:
        ShardedCache(job.path, job.sort).verify("quick")
    except CacheError as error:
        log.warning("%s; writing what is missing again", error)
        return False
    return True


def _complete(job: Job[Any], run: str, locks: Sequence[FolderLock]) -> None:
    """Write the missing shards, each process its share. Then write the manifest."""
    start = time.perf_counter()
    places = job.places()
    share = places[processes.rank() :: processes.count()]
    infos, computed = _write_shards(job, share, locks)
    together = processes.gathered([(infos, computed, time.perf_counter() - start)])
    if processes.is_main():
        shards = {place: info for part, _, _ in together for place, info in part.items()}
        splits = {
            name: SplitInfo(rows=len(hashes), shards=[shards[place] for place in places if place[0] == name])
            for name, hashes in job.hashes.items()
        }
        seconds = max(part[2] for part in together)
        cost = _cost(sum(part[1] for part in together), seconds, run, job.device)
        of_splits = {name: job.scores(name) for name in splits}
        scores = {name: values for name, values in of_splits.items() if values is not None}
        _check_in_place(locks)
        store_manifest(job.path, job.sort, job.header, splits, scores, cost)
    processes.wait()


def _check_in_place(locks: Sequence[FolderLock]) -> None:
    for lock in locks:
        check_in_place(lock)


def _write_shards(
    job: Job[Any], places: Sequence[Place], locks: Sequence[FolderLock]
) -> tuple[dict[Place, ShardInfo], int]:
    """Make sure these shards are stored. Return their facts and the number of rows that had to be computed.

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
            _collect(writing, infos)  # at most one shard waits, so memory stays bounded
            writing[place] = pool.submit(store_shard, job.path, job.header, *place, rows)
        _collect(writing, infos)
    return infos, computed


def _collect(writing: dict[Place, Future[ShardInfo]], infos: dict[Place, ShardInfo]) -> None:
    while writing:
        place, future = writing.popitem()
        infos[place] = future.result()


def _cost(rows: int, seconds: float, run: str, given: Any) -> Cost:
    """What computing the rows took. The speed is 0 if no time was measured."""
    import torch

    device = torch.device("cpu" if given is None else given)
    return Cost(
        seconds=seconds,
        rows_per_second=rows / seconds if seconds > 0 else 0.0,
        device=device_name(device),
        peak_memory_mb=peak_memory_mb(device),
        run=run,
    )


@contextmanager
def evaluating(model: Any, device: Any) -> Iterator[Any]:
    """Put a module in evaluation mode on its device, and afterwards back in its old modes. Yields the device of its
    inputs, as a torch.device. The same is done for a bound method of a module. Any other callable stays as it is; then
    `device` is yielded.

    Raises:
        CacheError: this machine has no such device, or the module cannot be moved there.
    """
    import torch

    device = _checked_device(device)
    of_module = model if isinstance(model, torch.nn.Module) else getattr(model, "__self__", None)
    if not isinstance(of_module, torch.nn.Module):
        yield device
        return
    device = _placed(of_module, device)
    modes = [(module, module.training) for module in of_module.modules()]  # such as a frozen BatchNorm's
    of_module.eval()
    try:
        yield device
    finally:
        for module, mode in modes:  # a module comes before those inside it, which it may change
            if module.training != mode:
                module.train(mode)


def _checked_device(device: Any) -> Any:
    """The device as a torch.device, or None. It may be given as a number, and the first GPU's is 0."""
    import torch

    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)  # a name is accepted even if the machine has no such device
        return found
    except (RuntimeError, TypeError, AssertionError) as error:
        raise CacheError(
            f"device={device!r}: expected a device of this machine, such as 'cpu' or 'cuda:0' ({error})"
        ) from None


def _placed(model: Any, device: Any) -> Any:
    """Move a module to its device. Returns the device of its inputs.

    Accelerate may have spread the module over devices, or offloaded it (`device_map`). Then hooks move its weights and
    inputs, and it stays as it is.

    Raises:
        CacheError: it cannot be moved.
    """
    import torch

    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    if device is None and processes.count() > 1 and not hooked and not hasattr(model, "hf_device_map"):
        device = processes.device()
    if device is None:
        return next(
            (weight.device for weight in model.parameters() if not weight.is_meta), torch.device("cpu")
        )
    if not hooked:
        _move(model, device)
    return device


def _move(model: Any, device: Any) -> None:
    try:
        model.to(device)  # too large for it, perhaps, quantised, or without values
    except (RuntimeError, ValueError, AssertionError) as error:
        raise CacheError(
            f"device={str(device)!r}: the model cannot be moved there ({error}); leave `device` out if it is where it "
            "should be, or choose another device"
        ) from None
