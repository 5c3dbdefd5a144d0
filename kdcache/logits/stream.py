"""Go through a split batch by batch in bounded memory: shuffled, divided among processes, resumable.

The order of an epoch depends only on the cache, the settings and the epoch's number:

1. The split's row groups are permuted by (seed, epoch), in the same way on every rank. One after the other, they are a
   line of N rows.
2. Rank r of R takes the rows [r N / R, (r + 1) N / R) of that line. So ranks differ by at most one row. (If a border is
   inside a row group, both ranks read the group and each takes its own rows.)
3. A rank reads `buffer_groups` row groups at a time, shuffles their rows by (seed, epoch, place in the line), and cuts
   the resulting sequence of rows into batches.
4. Each worker of a DataLoader takes a consecutive run of the rank's batches. The batches are the same with any number
   of workers. Only their order differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np

from kdcache.errors import CacheError
from kdcache.logits.disk import Group, ShardedCache
from kdcache.logits.rows import Rows
from kdcache.logits.seen import SeenIds

R = TypeVar("R", bound=Rows)
GROUP_ORDER, ROW_ORDER = 1, 2  # different random numbers for the two orders


class LogitStream(Generic[R]):
    """One split of a cache, batch by batch; `LogitCache.stream` makes it.

        stream = cache.stream("train", batch_size=256, rank=rank, world_size=world_size, seed=0)
        for epoch in range(3):
            stream.set_epoch(epoch)
            for batch in stream:
                batch.ids, batch.row_hashes, batch.logits  # int64 [n], uint64 [n], float32 [n, K]

    With a cache of V views the logits are [n, V, K]: every epoch gives all views of each row.

    Over all ranks, an epoch has each row exactly once. A batch is not sorted. Memory: twice `buffer_groups` row
    groups (the writer gives each about 4 MiB of logits) and two batches.

    A stream made after `import torch` is an IterableDataset whose items are batches:

        loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)

    The workers have copies of the stream. So call `set_epoch` before each epoch (`persistent_workers` do not get that
    call: they count the epochs themselves), and tell `state_dict` how many batches the loader has given. Each process
    compares a shard's checksum before it first reads from it. After `cache.verify("full")` in the main process, workers
    do not need to.

    Args:
        cache: the cache's shards.
        split: e.g. "train".
        batch_size: rows of a batch. A rank's last batch may be smaller.
        rank, world_size: this process's number, and the number of processes that share the rows.
        seed: decides the order; None keeps the order of writing in every epoch.
        buffer_groups: how many row groups are shuffled together.
        drop_last: give every rank the same number of full batches and leave out the remaining rows, for training
            loops whose ranks must take the same number of steps.

    Raises:
        CacheError: a setting makes no sense, there is no such split, or (while iterating) a shard is damaged.
    """

    def __init__(
        self,
        cache: ShardedCache[Any, R],
        split: str,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = 0,
        buffer_groups: int = 4,
        drop_last: bool = False,
    ) -> None:
        at_least = {"batch_size": 1, "world_size": 1, "rank": 0, "buffer_groups": 1}
        given = {
            "batch_size": batch_size,
            "world_size": world_size,
            "rank": rank,
            "buffer_groups": buffer_groups,
        }
        for name, value in given.items():
            _check_integer(name, value, at_least[name])
        if seed is not None:
            _check_integer("seed", seed, 0)
        if rank >= world_size:
            raise CacheError(f"rank must be below world_size {world_size}, found {rank}; ranks count from 0")
        self.cache, self.split, self.batch_size = cache, split, batch_size
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.buffer_groups, self.drop_last = buffer_groups, bool(drop_last)
        self._groups = cache.groups(split)
        self._total = sum(group.rows for group in self._groups)
        self._begin = _Place()  # the place where the next pass begins
        self._reached = _Place()  # the place that the passes have reached so far
        _make_iterable_dataset()

    def __len__(self) -> int:
        """The batches of this rank in an epoch."""
        if self.drop_last:
            return self._total // self.world_size // self.batch_size
        first, last = self._share()
        return -((first - last) // self.batch_size)

    def __iter__(self) -> Iterator[R]:
        """The batches of the epoch. The first time after `load_state_dict`: its rest. Then the next epoch is set."""
        worker = _worker()
        begin, (number, workers) = self._begin, worker or (0, 1)
        if begin != _Place(begin.epoch) and begin.workers != workers:
            raise CacheError(
                f"{self._context}: the state is of a loader with {begin.workers} workers, this one has {workers}, "
                "which share out the batches otherwise; use as many, or begin the epoch again with set_epoch"
            )
        # In a worker each pass over the loader is an epoch, even if it is left early.
        self._begin, self._reached = _Place(begin.epoch + (worker is not None)), begin
        part, done = begin.part_and_done(number, workers)
        return self._pass(begin.epoch, part, done, workers, in_worker=worker is not None)

    def __getitem__(self, index: object) -> NoReturn:
        """Always refused. A DataLoader calls this if it does not recognise the stream as an IterableDataset."""
        raise CacheError(
            f"{self._context}: a stream gives batches in its own order and none by number; for a DataLoader, import "
            "torch before making the stream"
        )

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch. It decides the order. A loaded state's place in this epoch is kept."""
        _check_integer("epoch", epoch, 0)
        if epoch != self._epoch:
            self._begin = self._reached = _Place(epoch)

    def state_dict(self, taken: int | None = None, workers: int = 0) -> dict[str, Any]:
        """The stream's place, as a JSON-like object for `load_state_dict`. It is valid for every rank at this step.

        Args:
            taken: how many batches of this epoch a DataLoader has given so far, counted from the epoch's beginning,
                also after a resume. (If workers iterate over the stream, only the training loop knows.) None: the
                number iterated in this process.
            workers: the DataLoader's num_workers, with `taken`.
        """
        reached = self._reached
        if taken is not None:
            _check_integer("taken", taken, 0)
            _check_integer("workers", workers, 0)
            reached = _Place(self._epoch, taken, max(workers, 1) if taken else 1)
        return {**self._identity(), **asdict(reached)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a state's place: the next pass gives exactly the remaining batches of the epoch.

        Row groups before that place are not read again, except those in the buffer there.

        Raises:
            CacheError: this is not a state, or it is of another cache, split, seed, batch size or number of ranks.
        """
        expected = self._identity()
        known = {*expected, "epoch", "batches", "workers", "worker"}
        if not isinstance(state, dict) or set(state) != known:
            raise CacheError(f"{self._context}: expected a stream's state, found {state!r:.200}")
        for name, value in expected.items():
            if state[name] != value:
                raise CacheError(
                    f"{self._context}: the state is of another stream: its {name} is {state[name]!r}, this one's "
                    f"{value!r}; resume with the same cache and settings, or begin the epoch again"
                )
        given = {"worker": 0} | {name: value for name, value in state.items() if value is not None}
        for name, least in (("epoch", 0), ("batches", 0), ("workers", 1), ("worker", 0)):
            _check_integer(name, given.get(name), least)
        if (
            state["batches"] > len(self) + 1 or given["worker"] >= state["workers"]
        ):  # another rank may have one batch more
            raise CacheError(
                f"{self._context}: the state says batch {state['batches']} of worker {state['worker']} of "
                f"{state['workers']}, but the epoch has {len(self)} batches; count them from the epoch's beginning"
            )
        self._begin = self._reached = _Place(
            state["epoch"], state["batches"], state["workers"], state["worker"]
        )

    @property
    def _epoch(self) -> int:
        """The epoch of the next pass."""
        return self._begin.epoch

    @property
    def _context(self) -> str:
        return f"{self.cache.path}: stream of split {self.split!r}"

    def _identity(self) -> dict[str, Any]:
        """Everything that decides the batches, except the rank, because all ranks are at the same step."""
        return {
            "cache": self.cache.identity,
            "split": self.split,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "world_size": self.world_size,
            "buffer_groups": self.buffer_groups,
            "drop_last": self.drop_last,
        }

    def _share(self) -> tuple[int, int]:
        """The places of this rank's first row in the epoch's line, and of the first row after its last."""
        return self.rank * self._total // self.world_size, (self.rank + 1) * self._total // self.world_size

    def _pass(self, epoch: int, part: int, done: int, workers: int, in_worker: bool) -> Iterator[R]:
        """Part `part` of the rank's batches of an epoch, without the first `done` batches of the part."""
        sizes = _even_parts(len(self), workers)
        first, last = sum(sizes[:part]), sum(sizes[: part + 1])
        seen = SeenIds()
        for batch in self._batches(epoch, min(first + done, last), last):
            repeated = seen.add(batch.ids)
            if repeated is not None:
                raise CacheError(f"{self._context} has row id {repeated} twice; cache the logits again")
            done += 1
            if self._reached.epoch == epoch:  # not if set_epoch was called
                self._reached = _Place(epoch, done, workers, part if in_worker else None)
            yield batch
        if not in_worker and self._epoch == epoch:
            self.set_epoch(epoch + 1)

    def _batches(self, epoch: int, first: int, last: int) -> Iterator[R]:
        """Batches `first` up to, not including, `last` of the rank's batches of an epoch."""
        start, stop = self._share()
        span = range(start + first * self.batch_size, min(start + last * self.batch_size, stop))
        return _cut(self._rows(epoch, span), self.batch_size)

    def _rows(self, epoch: int, span: range) -> Iterator[R]:
        """Blocks of shuffled rows that together are the places `span` of the epoch's line, in order."""
        pieces = self._pieces(epoch)
        for i in range(0, len(pieces), self.buffer_groups):
            block = pieces[i : i + self.buffer_groups]
            first, last = block[0].place, block[-1].place + block[-1].rows
            start, stop = max(first, span.start), min(last, span.stop)
            if start < stop:
                yield self._read_block(block, epoch).part(slice(start - first, stop - first))

    def _pieces(self, epoch: int) -> list[_Piece]:
        """This rank's part of the epoch's line, group by group."""
        groups = self._groups
        if self.seed is not None:
            order = np.random.default_rng([self.seed, epoch, GROUP_ORDER]).permutation(len(groups))
            groups = [groups[k] for k in order]
        first, last = self._share()
        pieces, begin = [], 0
        for group in groups:
            start, stop = max(first, begin), min(last, begin + group.rows)
            if start < stop:
                pieces.append(_Piece(group, start - begin, stop - begin, start))
            begin += group.rows
        return pieces

    def _read_block(self, pieces: list[_Piece], epoch: int) -> R:
        """The rows of some pieces, shuffled together."""
        parts = [self.cache.read_group(piece.group).part(slice(piece.start, piece.stop)) for piece in pieces]
        if self.seed is None:
            return type(parts[0]).joined(parts)
        count = sum(piece.rows for piece in pieces)
        to = np.random.default_rng([self.seed, epoch, ROW_ORDER, pieces[0].place]).permutation(count)
        return type(parts[0]).placed(parts, to)


@dataclass(frozen=True)
class _Place:
    """How many batches of an epoch a rank has given with this many workers, or only one of these workers."""

    epoch: int = 0
    batches: int = 0
    workers: int = 1  # also 1 without workers
    worker: int | None = None  # None: all workers together, as the training loop counts

    def part_and_done(self, number: int, workers: int) -> tuple[int, int]:
        """(the part of the rank's batches that worker `number` continues, how many batches of it were given).

        A DataLoader takes its workers' batches in turn, beginning with worker 0. Of n batches, part p gave those with
        the numbers p, p + workers, ... below n. Worker 0 continues the part whose turn it is. So the order stays the
        same.
        """
        if self.worker is not None:
            return self.worker, self.batches
        part = (number + self.batches) % workers
        return part, len(range(part, self.batches, workers))


@dataclass(frozen=True)
class _Piece:
    """Rows `start` up to `stop` of a row group; `place` is where they begin in the epoch's line."""

    group: Group
    start: int
    stop: int
    place: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


def _even_parts(count: int, parts: int) -> list[int]:
    """`count` divided into `parts` parts that differ by at most one. The larger parts come first."""
    return [count // parts + (k < count % parts) for k in range(parts)]


def _cut(blocks: Iterable[R], size: int) -> Iterator[R]:
    """The rows of the blocks in batches of `size`. Only the last batch may be smaller."""
    pending: list[R] = []
    missing = size
    for block in blocks:
        start = 0
        while start < len(block.ids):
            pending.append(block.part(slice(start, start + missing)))
            count = len(pending[-1].ids)
            start, missing = start + count, missing - count
            if not missing:
                yield type(pending[0]).joined(pending)
                pending, missing = [], size
        pending = [type(pending[0]).joined(pending)] if pending else []
        del block  # so that only one block at a time is in memory
    if pending:
        yield type(pending[0]).joined(pending)


def _check_integer(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise CacheError(f"a stream's {name} must be an integer of {least} or more, found {value!r}")


def _worker() -> tuple[int, int] | None:
    """(number of this DataLoader worker, how many there are); None outside of a worker."""
    if "torch" not in sys.modules:
        return None
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    return None if info is None else (info.id, info.num_workers)


def _make_iterable_dataset() -> None:
    """Make streams IterableDatasets if torch is imported already. This does not import torch."""
    if "torch" in sys.modules:
        from torch.utils.data import IterableDataset

        IterableDataset.register(LogitStream)
