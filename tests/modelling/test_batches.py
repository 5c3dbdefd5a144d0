"""Batches: every row once an epoch, padded to the longest, and the same rows whether they are on the device or not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdcache.modelling import batches
from kdcache.modelling.batches import Batch, Batcher, Normalise, device_rows, epoch_batches, sent
from kdcache.modelling.encoding import EncodedSplit
from tests import tiny_models as tiny
from tests.tiny_models import random_split

CPU = torch.device("cpu")


# ---- the order of the data ----


@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=300),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_visits_every_row_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(np.array(lengths), batch_size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)


def test_only_seed_and_epoch_decide_the_order() -> None:
    lengths = np.array([3, 9, 4, 12, 5, 3, 7, 10, 6, 8] * 5)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in epoch_batches(lengths, 4, seed, epoch)]

    np.random.seed(1)
    first = order(3, 1)
    np.random.seed(2)
    assert order(3, 1) == first
    assert order(3, 2) != first
    assert order(4, 1) != first


def test_batches_hold_rows_of_similar_length() -> None:
    """A row alone in its length costs padding; sorted pools need almost none, a random order a lot."""
    lengths = np.random.default_rng(0).integers(1, 100, 3200)
    tokens = sum(int(lengths[batch].max()) * len(batch) for batch in epoch_batches(lengths, 32, 0, 0))
    shuffled = np.random.default_rng(1).permutation(3200).reshape(100, 32)
    random = sum(int(lengths[batch].max()) * 32 for batch in shuffled)
    assert tokens < 1.05 * lengths.sum() < random / 1.8
    maxima = [int(lengths[batch].max()) for batch in epoch_batches(lengths, 32, 0, 0)]
    assert maxima != sorted(maxima)  # and short batches do not all come first


def test_images_are_shuffled_though_all_have_the_same_length() -> None:
    batches = epoch_batches(np.zeros(200, dtype=np.int64), 10, 0, 0)
    assert any(batch.max() - batch.min() > 50 for batch in batches)


# ---- batches ----


def batch(*rows: int) -> Batch:
    return sent([np.array(rows)], CPU)[0]


def test_batches_are_sent_with_their_row_numbers() -> None:
    whole = epoch_batches(np.array([3, 9, 4, 12, 5]), 2, 0, 0)
    found = sent(whole, CPU)
    assert [each.index.tolist() for each in found] == [rows.tolist() for rows in whole]
    assert [each.rows.tolist() for each in found] == [rows.tolist() for rows in whole]
    assert [len(each) for each in found] == [len(rows) for rows in whole]
    assert len({each.index.untyped_storage().data_ptr() for each in found}) == 1  # one copy of all
    assert sent([], CPU) == []


def test_a_batch_is_padded_to_its_longest_row() -> None:
    split = random_split([2, 5, 3])
    assert split.input_ids is not None
    types = [np.ones(len(row), dtype=np.int32) for row in split.input_ids]
    batcher = Batcher(dataclasses.replace(split, token_type_ids=types), 9, CPU)
    found = batcher(batch(2, 0))
    third, first = split.input_ids[2].tolist(), split.input_ids[0].tolist()
    assert found["input_ids"].tolist() == [third, [*first, 9]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert found["token_type_ids"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert {value.dtype for value in found.values()} == {torch.int64}
    assert "token_type_ids" not in Batcher(split, 9, CPU)(batch(0))


def test_a_batch_of_images() -> None:
    split = tiny.image_split(4)
    found = Batcher(split, 0, CPU)(batch(3, 1))
    assert list(found) == ["pixel_values"]
    np.testing.assert_array_equal(found["pixel_values"], tiny.pixel_values(split)[[3, 1]])


def test_pixels_are_normalised_by_channel() -> None:
    """(v / 255 - 0.2) / 0.4: 0 -> -0.5, 255 -> 2, 51 -> 0, 102 -> 0.5; the second channel only divided by 255."""
    pixels = torch.tensor([[[[0, 255], [51, 102]], [[0, 255], [51, 102]]]], dtype=torch.uint8)
    found = Normalise([0.2, 0.0], [0.4, 1.0])(pixels)
    expected = [[[[-0.5, 2.0], [0.0, 0.5]], [[0.0, 1.0], [0.2, 0.4]]]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_normalised_pixels_are_numpys_to_the_last_bit() -> None:
    split = tiny.image_split(50)
    assert split.images is not None
    found = Normalise(split.images.mean, split.images.std)(torch.from_numpy(split.images.pixels))
    assert torch.equal(found, tiny.pixel_values(split))


# ---- where rows are kept ----


def test_rows_stay_in_the_hosts_memory_when_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's device without memory stands for a GPU: what is sent there has no values, but is known to be there."""
    values, device, rows = torch.arange(12.0).reshape(4, 3), torch.device("meta"), np.array([2, 0])
    (there,) = sent([rows], device)
    (kept,) = device_rows([values], device)
    assert kept.values.device == device
    assert (kept[there].device, kept[there].shape) == (device, (2, 3))
    monkeypatch.setattr(batches, "_fit", lambda *_: False)
    (host,) = device_rows([values], device)
    assert host.values is values
    assert (host[there].device, host[there].shape) == (device, (2, 3))
    (here,) = device_rows([values], CPU)
    assert here[batch(2, 0)].tolist() == [[6, 7, 8], [0, 1, 2]]


class FromTheHost(TorchDispatchMode):
    """Notes the operations that are given a tensor of the host's (but for `torch.from_numpy` itself)."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in tree_leaves(args) if isinstance(value, torch.Tensor)]
        if any(value.device == CPU for value in given) and function is not torch.ops.aten.lift_fresh.default:
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("split", [random_split([2, 5, 3, 4]), tiny.image_split(4)], ids=["texts", "images"])
def test_a_batch_takes_nothing_from_the_host(split: EncodedSplit) -> None:
    """Sending the row numbers once for all batches is all that an epoch copies; each copy would wait for a GPU."""
    device, whole = torch.device("meta"), [np.array([2, 0]), np.array([1, 3])]
    batches = Batcher(split, 0, device)
    with FromTheHost() as copies:
        inputs = [batches(each) for each in sent(whole, device)]
    assert copies.names == ["aten._to_copy.default"]
    assert {value.device for each in inputs for value in each.values()} == {device}


def test_what_fits_takes_at_most_half_of_the_gpus_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """All views together: 24 and 16 bytes are half of 80."""
    gpu, views = torch.device("cuda", 1), [torch.zeros(6), torch.zeros(4)]
    asked = []

    def free(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return memory, 1000

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    memory = 80
    assert batches._fit(views, gpu)
    memory = 79
    assert not batches._fit(views, gpu)
    assert asked == [gpu, gpu]
    assert batches._fit(views, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rows_that_are_sent_to_a_gpu_are_those_that_are_kept_there(monkeypatch: pytest.MonkeyPatch) -> None:
    values, gpu = torch.randn(100, 7), torch.device("cuda")
    (kept,) = device_rows([values], gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    (host,) = device_rows([values], gpu)
    assert (kept.values.device.type, host.values.device.type) == ("cuda", "cpu")
    for each in sent(epoch_batches(np.zeros(100, dtype=np.int64), 8, 0, 0), gpu):
        assert torch.equal(kept[each], host[each])
        assert torch.equal(host[each].cpu(), values[each.rows])
