"""Recorded steps: the right rows at the right rate, whatever the shape; and on a GPU the graphs themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import graphed
from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import KdcacheError
from kdcache.modelling.batches import Batcher, epoch_batches
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedSplit
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import Regularizer, Student
from kdcache.training.loop import Loop, fine_tune
from kdcache.training.regularizers import make_loss
from tests import tiny_models as tiny
from tests.tiny_models import card, random_split, student

CPU = torch.device("cpu")
LENGTHS = [3, 9, 4, 12, 5, 3, 7, 10, 6, 8] * 5
METHODS = [Regularizer(), Regularizer(soft_labels="teacher", alpha=0.5, temperature=2.0)]


@pytest.fixture(scope="module")
def still_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout: its masks would have the shape of the padding."""
    return tiny.save_checkpoint(tmp_path_factory.mktemp("bert"), "bert", **tiny.STILL["bert"])


def train(model: Student, split: EncodedSplit, method: Regularizer) -> tuple[dict[str, Any], list[float]]:
    network = build_model(
        find_checkpoint(model), card(), 0, load_preprocessor(find_checkpoint(model), card())
    )
    soft = np.random.default_rng(1).normal(size=(len(split), 3)).astype(np.float32)
    cached = soft if method.soft_labels else None
    trained, run = fine_tune(network, split, make_loss(method, 3), model, 0, cached)
    return trained.state_dict(), run.losses


def as_without(model: Student, split: EncodedSplit, method: Regularizer) -> None:
    expected, losses = train(model, split, method)
    with graphed.graphs():
        found, recorded = train(model, split, method)
    assert recorded == pytest.approx(losses, rel=1e-4)
    for key, value in expected.items():
        if not key.endswith(
            "key.bias"
        ):  # attention does not depend on it: AdamW makes steps of rounding errors
            torch.testing.assert_close(found[key], value, atol=1e-4, rtol=1e-3)
    assert Loop is not graphed.GraphedLoop  # and afterwards nothing is recorded


@pytest.mark.parametrize("method", METHODS)
def test_recorded_steps_train_as_others_do(still_bert: Path, method: Regularizer) -> None:
    """Steps of several shapes, and a last batch of two rows. (On a GPU with graphs.)"""
    as_without(student(still_bert, epochs=4, warmup=0.25), random_split(LENGTHS), method)


def test_the_rate_is_not_recorded_as_a_number(still_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule fills the tensor that a graph reads: the same one after a step as before, with another rate."""
    rates: list[list[torch.Tensor]] = []
    plain = Loop.update

    def update(loop: Loop, *arguments: Any) -> torch.Tensor:
        assert all(group["capturable"] for group in loop.optimizer.param_groups)
        rates.append([group["lr"] for group in loop.optimizer.param_groups])
        values.append([float(rate) for rate in rates[-1]])
        return plain(loop, *arguments)

    values: list[list[float]] = []
    monkeypatch.setattr(Loop, "update", update)
    with graphed.graphs():
        train(student(still_bert, epochs=1, learning_rate=1e-2), random_split(LENGTHS[:12]), METHODS[0])
    assert len(values) == 3
    assert values[0] == pytest.approx([1e-2, 1e-2])
    assert values[0] > values[1] > values[2]
    assert all(now is then for step in rates for now, then in zip(step, rates[0], strict=True))


def test_each_shape_is_recorded_at_its_second_step(still_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[graphed.Update] = []

    class Counts(graphed.Repeats):
        def record(self, update: graphed.Update) -> graphed.Update:
            recorded.append(update)
            return update

    monkeypatch.setattr(graphed, "Graphs" if torch.cuda.is_available() else "Repeats", Counts)
    shapes: list[tuple[int, int]] = []
    split, model = random_split(LENGTHS), student(still_bert, epochs=3)
    for epoch in range(3):
        for rows in epoch_batches(np.array(LENGTHS), model.batch_size, 0, epoch):
            longest = max(LENGTHS[row] for row in rows)
            shapes.append((len(rows), 8 if longest <= 8 else 12))
    with graphed.graphs():
        train(model, split, METHODS[0])
    assert len(recorded) == sum(shapes.count(shape) > 1 for shape in set(shapes)) > 2


def test_batches_have_few_lengths() -> None:
    """Multiples of eight, up to the longest row of all."""
    split = random_split([3, 8, 9, 20])
    batches = graphed.Bucketed(split, 0, CPU)
    assert [batches.longest(np.array(rows)) for rows in ([0], [0, 1], [2], [1, 2], [3])] == [8, 8, 16, 16, 20]
    assert Batcher(split, 0, CPU).longest(np.array([0])) == 3


def test_rows_that_are_not_on_the_gpu_are_refused(still_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph would go on with the batch that it was recorded with."""

    class Elsewhere:
        values = torch.zeros(1, device="meta")

    monkeypatch.setattr("kdcache.training.loop.device_rows", lambda *_: [Elsewhere()])
    with graphed.graphs(), pytest.raises(KdcacheError, match="do not fit there"):
        train(student(still_bert), random_split(LENGTHS), METHODS[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_is_replayed_on_other_rows() -> None:
    index, total = torch.ones(2, dtype=torch.long, device="cuda"), torch.zeros((), device="cuda")
    values = torch.arange(10.0, device="cuda")

    def update() -> torch.Tensor:
        found = values[index].sum()
        total.add_(found)
        return found

    recorder = graphed.Graphs(index.device)
    assert float(recorder.first(update)) == 2
    replay = recorder.record(update)
    index.copy_(torch.tensor([3, 4]))
    assert float(replay()) == 7
    index.copy_(torch.tensor([5, 9]))
    assert float(replay()) == 14
    assert float(total) == 2 + 7 + 14  # recording did nothing
