"""The stream: each row exactly once per epoch over ranks and workers, the same again, and on from the middle."""

import json
import pickle
import subprocess
import sys
from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.logits import format as cache_format
from kdcache.logits import stream as stream_module

from .conftest import rows, write_cache

# rows, rows per shard, rows per row group
LAYOUTS = [(0, 5, 5), (1, 5, 5), (25, 10, 4), (40, 40, 40), (33, 7, 3), (64, 64, 4)]


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    opened = []
    for count, per_shard, per_group in LAYOUTS:
        with patch.object(cache_format, "rows_per_group", lambda *_, size=per_group: size):
            path = tmp_path_factory.mktemp("cache")
            opened.append(LogitCache(write_cache(path, {"train": count}, rows_per_shard=per_shard)))
    return opened


@pytest.fixture
def cache(caches):
    return caches[-1]  # 64 rows in 16 row groups of 4


def as_worker(number, workers):
    """What a stream sees in a DataLoader's worker process."""
    return patch.object(stream_module, "_worker", lambda: (number, workers))


def loader_order(streams):
    """The batches as a DataLoader gives them: one of each worker in turn, while it has some."""
    passes = []
    for number, stream in enumerate(streams):
        with as_worker(number, len(streams)):
            passes.append(list(stream))
    turns = range(max(map(len, passes)))
    return [batches[turn] for turn in turns for batches in passes if turn < len(batches)]


def ids_of(batches):
    return [batch.ids.tolist() for batch in batches]


settings_of_streams = st.fixed_dictionaries(
    {
        "layout": st.integers(0, len(LAYOUTS) - 1),
        "batch_size": st.integers(1, 20),
        "world_size": st.integers(1, 5),
        "seed": st.none() | st.integers(0, 2**70),
        "buffer_groups": st.integers(1, 6),
    }
)


def streams_of(caches, chosen, **more):
    """One stream per rank."""
    options = {**chosen, **more}
    cache, size = caches[options.pop("layout")], options.pop("batch_size")
    return [cache.stream("train", size, rank=rank, **options) for rank in range(options["world_size"])]


@settings(max_examples=60, deadline=None)
@given(chosen=settings_of_streams, workers=st.integers(1, 4), epoch=st.integers(0, 3))
def test_each_row_once_per_epoch_over_ranks_and_workers(caches, chosen, workers, epoch):
    expected_ids, hashes, logits = rows(LAYOUTS[chosen["layout"]][0])
    found, per_rank = [], []
    for stream in streams_of(caches, chosen):
        copies = [pickle.loads(pickle.dumps(stream)) for _ in range(workers)]
        for one in copies:
            one.set_epoch(epoch)
        batches = loader_order(copies)
        assert len(batches) == len(stream)
        assert sum(len(batch.ids) < chosen["batch_size"] for batch in batches) <= 1
        assert not any(len(batch.ids) > chosen["batch_size"] for batch in batches)
        per_rank.append(sum(len(batch.ids) for batch in batches))
        found += batches
    assert Counter(i for ids in ids_of(found) for i in ids) == Counter(expected_ids.tolist())
    assert max(per_rank) - min(per_rank) <= 1
    for batch in found:
        assert np.array_equal(batch.row_hashes, hashes[batch.ids])
        assert np.array_equal(batch.logits, logits[batch.ids])
        assert (batch.ids.dtype, batch.row_hashes.dtype, batch.logits.dtype) == ("int64", "uint64", "float32")


@settings(max_examples=40, deadline=None)
@given(chosen=settings_of_streams, workers=st.integers(1, 4))
def test_workers_give_the_batches_of_one_process(caches, chosen, workers):
    for alone, *copies in zip(*(streams_of(caches, chosen) for _ in range(workers + 1)), strict=True):
        assert sorted(ids_of(loader_order(copies))) == sorted(ids_of(alone))


@settings(max_examples=40, deadline=None)
@given(chosen=settings_of_streams, workers=st.integers(1, 3))
def test_drop_last_gives_every_rank_as_many_full_batches(caches, chosen, workers):
    count, size = LAYOUTS[chosen["layout"]][0], chosen["batch_size"]
    found = []
    for copies in zip(*(streams_of(caches, chosen, drop_last=True) for _ in range(workers)), strict=True):
        batches = loader_order(copies)
        assert len(batches) == len(copies[0]) == count // chosen["world_size"] // size
        assert all(len(batch.ids) == size for batch in batches)
        found += [i for ids in ids_of(batches) for i in ids]
    assert len(set(found)) == len(found)


@settings(max_examples=60, deadline=None)
@given(chosen=settings_of_streams, drop_last=st.booleans(), epoch=st.integers(0, 2), data=st.data())
def test_a_loaded_state_gives_exactly_the_batches_that_were_left(caches, chosen, drop_last, epoch, data):
    rank = data.draw(st.integers(0, chosen["world_size"] - 1))
    one, two, whole = (streams_of(caches, chosen, drop_last=drop_last)[rank] for _ in range(3))
    one.set_epoch(epoch)
    whole.set_epoch(epoch)
    expected, next_epoch = ids_of(whole), ids_of(whole)
    taken = data.draw(st.integers(0, len(expected)))
    batches = iter(one)
    for _ in range(taken):
        next(batches)
    state = json.loads(json.dumps(one.state_dict()))
    two.load_state_dict(state)
    two.set_epoch(epoch)  # as a training loop does, of the epoch it is in
    assert two.state_dict() == state
    assert ids_of(two) == expected[taken:]
    assert ids_of(two) == next_epoch


@settings(max_examples=60, deadline=None)
@given(chosen=settings_of_streams, workers=st.integers(1, 4), epoch=st.integers(0, 2), data=st.data())
def test_a_state_of_what_a_loader_gave(caches, chosen, workers, epoch, data):
    rank = data.draw(st.integers(0, chosen["world_size"] - 1))

    def copies():
        found = [streams_of(caches, chosen)[rank] for _ in range(workers)]
        for stream in found:
            stream.set_epoch(epoch)
        return found

    expected = ids_of(loader_order(copies()))
    taken = data.draw(st.integers(0, len(expected)))
    state = json.loads(json.dumps(copies()[0].state_dict(taken, workers)))
    resumed = [streams_of(caches, chosen)[rank] for _ in range(workers)]
    for stream in resumed:
        stream.load_state_dict(state)
    assert ids_of(loader_order(resumed)) == expected[taken:]


@settings(max_examples=20, deadline=None)
@given(workers=st.integers(1, 4), taken=st.integers(0, 8), data=st.data())
def test_a_worker_knows_its_own_state(caches, workers, taken, data):
    number = data.draw(st.integers(0, workers - 1))
    one, two = (caches[-1].stream("train", 5) for _ in range(2))
    with as_worker(number, workers):
        whole = ids_of(caches[-1].stream("train", 5))
        batches = iter(one)
        given_batches = [next(batches) for _ in range(min(taken, len(whole)))]
        two.load_state_dict(json.loads(json.dumps(one.state_dict())))
        assert ids_of(given_batches) + ids_of(two) == whole


def test_the_order_depends_on_seed_and_epoch_alone(cache):
    one, two = (cache.stream("train", 5, seed=3) for _ in range(2))
    epochs = [ids_of(one) for _ in range(3)]  # iterating to the end goes on to the next epoch
    assert len({str(epoch) for epoch in epochs}) == 3
    two.set_epoch(2)
    assert ids_of(two) == epochs[2]
    assert ids_of(cache.stream("train", 5, seed=4)) != epochs[0]


def test_without_a_seed_the_order_is_that_of_writing(caches):
    for cache, (count, *_) in zip(caches, LAYOUTS, strict=True):
        stream = cache.stream("train", 4, seed=None)
        for _ in range(2):
            assert [i for ids in ids_of(stream) for i in ids] == list(range(count))
    halves = [ids_of(caches[2].stream("train", 99, rank=rank, world_size=2, seed=None)) for rank in (0, 1)]
    assert halves == [[list(range(12))], [list(range(12, 25))]]


def test_rows_of_buffer_groups_row_groups_are_mixed(cache):
    batches = ids_of(cache.stream("train", 8, buffer_groups=2))
    groups = [{i // 4 for i in batch} for batch in batches]
    assert [len(found) for found in groups] == [2] * 8
    assert set.union(*groups) == set(range(16))
    order = [min(found) for found in groups]
    assert order != sorted(order)  # the row groups are permuted
    assert any(
        [i // 4 for i in batch] != sorted(i // 4 for i in batch) for batch in batches
    )  # so are the rows


class Reads:
    """Counts the row groups that a cache reads."""

    def __init__(self, cache):
        self.read, self.inner = [], cache.read_group

    def __call__(self, group):
        self.read.append((group.shard, group.group))
        return self.inner(group)


def test_reads_no_more_than_it_needs(cache):
    with patch.object(cache._disk, "read_group", Reads(cache._disk)) as reads:
        stream = cache.stream("train", 8, buffer_groups=2)
        assert reads.read == []
        next(iter(stream))
        assert len(reads.read) == 2
    with patch.object(cache._disk, "read_group", Reads(cache._disk)) as reads:
        list(stream)
        assert sorted(reads.read) == [(0, group) for group in range(16)]


def test_a_resumed_stream_reads_only_what_is_left(cache):
    whole = cache.stream("train", 3, buffer_groups=2)
    with patch.object(cache._disk, "read_group", Reads(cache._disk)) as all_reads:
        list(whole)
    resumed = cache.stream("train", 3, buffer_groups=2)
    resumed.load_state_dict(resumed.state_dict(taken=11))  # 33 rows of 64: in the fifth buffer of eight rows
    with patch.object(cache._disk, "read_group", Reads(cache._disk)) as reads:
        list(resumed)
    assert reads.read == all_reads.read[8:]


def test_workers_share_the_reading(cache):
    found = []
    for number in range(4):
        with as_worker(number, 4), patch.object(cache._disk, "read_group", Reads(cache._disk)) as reads:
            list(cache.stream("train", 8, buffer_groups=2))
        found += reads.read
    assert sorted(found) == [(0, group) for group in range(16)]  # batches end where buffers do: nothing twice


def test_leaving_early_begins_the_epoch_again(cache):
    stream = cache.stream("train", 5)
    first = next(iter(stream)).ids
    assert stream.state_dict()["batches"] == 1
    stream.set_epoch(0)
    again = iter(stream)
    assert stream.state_dict()["batches"] == 0
    assert np.array_equal(next(again).ids, first)


def test_set_epoch_while_iterating_wins(cache):
    stream = cache.stream("train", 5)
    batches = iter(stream)
    next(batches)
    stream.set_epoch(7)
    list(batches)
    assert (stream.state_dict()["epoch"], stream.state_dict()["batches"]) == (7, 0)


def test_a_worker_that_stays_counts_the_epochs(cache):
    expected = cache.stream("train", 5)
    expected.set_epoch(1)
    stream = cache.stream("train", 5)
    with as_worker(0, 1):
        next(iter(stream))  # the loop left this epoch early
        assert ids_of(stream) == ids_of(expected)


def test_a_worker_that_stays_tells_the_epoch_that_it_is_in(cache):
    stream = cache.stream("train", 5)
    with as_worker(0, 1):
        for epoch in range(2):
            batches = iter(stream)
            next(batches)
            state = stream.state_dict()
            assert (state["epoch"], state["batches"], state["worker"]) == (epoch, 1, 0)
        rest = ids_of(batches)
        again = cache.stream("train", 5)
        again.load_state_dict(state)
        assert ids_of(again) == rest
        assert ids_of(again) == ids_of(stream)  # both are at epoch 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 6),
        ("world_size", 2),
        ("seed", 1),
        ("buffer_groups", 3),
        ("drop_last", True),
        ("split", "validation"),
    ],
)
def test_a_state_of_other_settings(tmp_path, name, value):
    cache = LogitCache(write_cache(tmp_path))
    chosen = {"split": "train", "batch_size": 5}
    state = cache.stream(**chosen).state_dict()
    with pytest.raises(
        CacheError, match=f"state is of another stream: its {name} is .*, this one's {value!r};"
    ):
        cache.stream(**{**chosen, name: value}).load_state_dict(state)


def test_a_state_of_another_cache(caches):
    state = caches[2].stream("train", 5).state_dict()
    with pytest.raises(
        CacheError, match=f"its cache is '{caches[2].identity}', this one's '{caches[3].identity}'"
    ):
        caches[3].stream("train", 5).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("epoch"), "expected a stream's state, found"),
        (lambda state: state.update(extra=1), "expected a stream's state, found"),
        (lambda state: state.update(epoch=-1), "epoch must be an integer of 0 or more, found -1"),
        (lambda state: state.update(batches=1.5), "batches must be an integer of 0 or more, found 1.5"),
        (lambda state: state.update(workers=0), "workers must be an integer of 1 or more, found 0"),
        (lambda state: state.update(worker=1), "the state says batch 0 of worker 1 of 1"),
        (lambda state: state.update(worker="0"), "worker must be an integer of 0 or more, found '0'"),
        (lambda state: state.update(batches=15), "the state says batch 15 .*, but the epoch has 13 batches"),
        (lambda state: state.update(batches=None), "batches must be an integer of 0 or more, found None"),
    ],
)
def test_what_is_no_state(cache, change, message):
    stream = cache.stream("train", 5)
    state = stream.state_dict()
    change(state)
    with pytest.raises(CacheError, match=message):
        stream.load_state_dict(state)
    with pytest.raises(CacheError, match="expected a stream's state, found None"):
        stream.load_state_dict(None)


def test_a_state_of_another_number_of_workers(cache):
    stream = cache.stream("train", 5)
    stream.load_state_dict(stream.state_dict(taken=3, workers=2))
    with pytest.raises(CacheError, match="the state is of a loader with 2 workers, this one has 1"):
        iter(stream)
    with as_worker(0, 2):
        assert len(list(stream)) == 5  # of part 1's 6; of the loader's first three, number 1 was its
    stream.load_state_dict(stream.state_dict(taken=0, workers=2))
    assert len(list(stream)) == 13  # at the beginning, the number does not matter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of 1 or more, found 0"),
        ({"batch_size": 2.0}, "batch_size must be an integer of 1 or more, found 2.0"),
        ({"rank": 2, "world_size": 2}, "rank must be below world_size 2, found 2"),
        ({"rank": -1}, "rank must be an integer of 0 or more, found -1"),
        ({"world_size": 0}, "world_size must be"),
        ({"buffer_groups": 0}, "buffer_groups must be"),
        ({"seed": -1}, "seed must be an integer of 0 or more, found -1"),
        ({"split": "test"}, "no split 'test' in this cache"),
    ],
)
def test_settings_that_make_no_sense(cache, options, message):
    with pytest.raises(CacheError, match=message):
        cache.stream(**{"split": "train", "batch_size": 2, **options})
    with pytest.raises(CacheError, match="epoch must be an integer of 0 or more, found None"):
        cache.stream("train", 2).set_epoch(None)


def test_a_damaged_shard_ends_the_stream(tmp_path):
    cache = LogitCache(write_cache(tmp_path))
    shard = tmp_path / "train" / "part-00002.parquet"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    stream = cache.stream("train", 10, seed=None, buffer_groups=1)
    batches = iter(stream)
    assert [len(next(batches).ids), len(next(batches).ids)] == [10, 10]
    with pytest.raises(CacheError, match=r"part-00002\.parquet: is damaged"):
        next(batches)


def test_a_data_loader_with_real_workers(cache):
    data = pytest.importorskip("torch.utils.data")
    stream = cache.stream("train", 5, seed=1)
    loader = data.DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert len(loader) == 13
    epochs = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        epochs.append(ids_of(loader))
        assert sorted(i for ids in epochs[-1] for i in ids) == list(range(64))
    assert epochs[0] != epochs[1]
    one = cache.stream("train", 5, seed=1)
    assert sorted(epochs[0]) == sorted(ids_of(one))

    resumed = cache.stream("train", 5, seed=1)
    resumed.load_state_dict(stream.state_dict(taken=5, workers=2))
    loader = data.DataLoader(resumed, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert ids_of(loader) == epochs[1][5:]


def test_a_data_loader_with_workers_that_stay(cache):
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(
        cache.stream("train", 5),
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        persistent_workers=True,
    )
    next(iter(loader))  # left early: yet both workers agree on what epoch comes next
    expected = cache.stream("train", 5)
    expected.set_epoch(1)
    assert sorted(ids_of(loader)) == sorted(ids_of(expected))


def test_a_data_loader_without_workers(cache):
    data = pytest.importorskip("torch.utils.data")
    stream = cache.stream("train", 5)
    loader = data.DataLoader(stream, batch_size=None)
    assert ids_of(loader) == ids_of(cache.stream("train", 5))
    assert stream.state_dict()["epoch"] == 1


def test_no_batch_by_number(cache):
    with pytest.raises(CacheError, match="import torch before making the stream"):
        cache.stream("train", 5)[0]


def test_needs_no_torch(tmp_path):
    cache = write_cache(tmp_path)
    script = (
        "import sys\n"
        "from kdcache.logits.cache import LogitCache\n"
        f"batches = list(LogitCache({str(cache)!r}).stream('train', 10))\n"
        "print(len(batches), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"]
