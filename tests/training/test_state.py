"""A training that goes on from a state gives the bits of one that was never interrupted, wherever it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import TrialError
from kdcache.modelling.adapting import merged, to_be_trained
from kdcache.modelling.building import build_model
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import Lora, Regularizer, Student
from kdcache.training.loop import Training, fine_tune
from kdcache.training.regularizers import make_loss
from kdcache.training.state import State
from kdcache.training.watching import Epoch, Watch
from tests import tiny_models as tiny
from tests.tiny_models import IMAGE_FAMILIES, TEXT_FAMILIES, card, random_split, same_weights, student

LENGTHS = [3, 9, 4, 12, 5, 3, 7, 10, 6, 8]  # 3 batches of 4
STEPS = 6  # in 2 epochs


class Keeper(Watch):
    """Notes the state after every step, as it was then, and what it is told."""

    def __init__(self, state: State | None = None) -> None:
        self._from = state
        self.states: list[State] = []
        self.told: list[Any] = []

    def state(self) -> State | None:
        return self._from

    def begins(self, steps: int, done: int) -> None:
        self.told.append((steps, done))

    def step(self) -> None:
        self.told.append("step")

    def wants_state(self) -> bool:
        return True

    def keep(self, state: State) -> None:
        copies = {name: value.clone() for name, value in state.tensors.items()}
        self.states.append(State(copies, {**state.rest, "losses": list(state.rest["losses"])}))

    def epoch(self, epoch: Epoch) -> None:
        self.told.append((epoch.number, epoch.of, epoch.rows))


def train(folder: Path, family: str, watch: Watch, **changes: Any) -> tuple[Any, Training]:
    params: Student = student(folder, **changes)
    checkpoint, modality = find_checkpoint(params), "text" if family in TEXT_FAMILIES else "image"
    task = card(modality=modality)
    split = random_split(LENGTHS) if modality == "text" else tiny.image_split(10)
    model = build_model(checkpoint, task, 0, load_preprocessor(checkpoint, task))
    soft = np.linspace(-1, 1, 30).reshape(-1, 3).astype(np.float32)
    schedule: Any = {"start": 0.2, "end": 0.8}
    method = Regularizer(soft_labels="teacher", alpha=schedule)  # how far training is counts in its loss
    return fine_tune(model, split, make_loss(method, 3), params, 3, soft, watch)


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *IMAGE_FAMILIES])
def test_from_every_step_it_ends_with_the_same_bits(tmp_path: Path, family: str) -> None:
    """With dropout where the family has it, and ResNet's running means and variances."""
    tiny.save_checkpoint(tmp_path, family)
    keeper = Keeper()
    whole, run = train(tmp_path, family, Watch())
    kept, _ = train(tmp_path, family, keeper)
    assert same_weights(kept, whole)  # keeping changes nothing
    assert len(keeper.states) == STEPS
    for done, state in enumerate(keeper.states, start=1):
        torch.rand(done)  # whatever the process drew before
        again, other = train(tmp_path, family, Keeper(state))
        assert same_weights(again, whole), done
        assert other.losses == run.losses
        assert other.steps == run.steps


def test_adapters_in_parts_with_checkpointed_gradients(tmp_path: Path) -> None:
    """Of a model with adapters these and the head are kept, nothing else."""
    pytest.importorskip("peft")
    lora = Lora(rank=2, alpha=4, dropout=0.3, targets=("query",))
    params = student(
        tiny.save_checkpoint(tmp_path, "bert"), lora=lora, accumulate=2, gradient_checkpointing=True
    )
    checkpoint = find_checkpoint(params)

    def adapted(watch: Watch) -> Any:
        model = build_model(checkpoint, card(), 0, load_preprocessor(checkpoint, card()))
        with to_be_trained(model, params, 0) as trainee:
            loss = make_loss(Regularizer(), 3)
            trainee, run = fine_tune(trainee, random_split(LENGTHS), loss, params, 0, None, watch)
        return merged(trainee), run.losses

    keeper = Keeper()
    whole, losses = adapted(keeper)
    again, others = adapted(Keeper(keeper.states[3]))
    assert same_weights(again, whole)
    assert others == losses
    kept = {name for name in keeper.states[0].tensors if name.startswith("model.") and "_ids" not in name}
    assert len(kept) == 2 * 3 + 2  # two of each layer, and the head's


def test_interrupted_twice(tmp_path: Path) -> None:
    tiny.save_checkpoint(tmp_path, "bert")
    first = Keeper()
    whole, run = train(tmp_path, "bert", first)
    second = Keeper(first.states[1])
    train(tmp_path, "bert", second)
    again, other = train(tmp_path, "bert", Keeper(second.states[2]))
    assert second.states[2].rest["steps"] == 5
    assert same_weights(again, whole)
    assert other.losses == run.losses


def test_what_a_watch_is_told(tmp_path: Path) -> None:
    tiny.save_checkpoint(tmp_path, "bert")
    keeper = Keeper()
    train(tmp_path, "bert", keeper)
    step = "step"
    assert keeper.told == [(6, 0), step, step, step, (1, 2, 10), step, step, step, (2, 2, 10)]
    later = Keeper(keeper.states[3])  # the first batch of the second epoch is done
    train(tmp_path, "bert", later)
    assert later.told[:3] == [(6, 4), step, step]
    number, of, rows = later.told[3]
    assert (number, of) == (2, 2)
    assert 6 <= rows <= 8  # of 10, without a batch of 4 or of 2


def test_seconds_and_memory_of_what_was_interrupted_count(tmp_path: Path) -> None:
    tiny.save_checkpoint(tmp_path, "bert")
    keeper = Keeper()
    train(tmp_path, "bert", keeper)
    state = keeper.states[2]
    longer = State(state.tensors, {**state.rest, "seconds": 1000.0, "peak_memory_mb": 1e6})
    _, run = train(tmp_path, "bert", Keeper(longer))
    assert 1000 < run.seconds < 1100
    assert run.peak_memory_mb == 1e6


def test_a_parameter_that_is_not_trained_is_not_kept(tmp_path: Path) -> None:
    """Nor one that gets no gradient in the optimizer's part: the pooler's second state is not there to be put back."""
    tiny.save_checkpoint(tmp_path, "bert")
    params = student(tmp_path)
    checkpoint = find_checkpoint(params)
    model = build_model(checkpoint, card(), 0, load_preprocessor(checkpoint, card()))
    frozen = [parameter.requires_grad_(False) for parameter in model.bert.embeddings.parameters()]
    keeper = Keeper()
    fine_tune(model, random_split(LENGTHS), make_loss(Regularizer(), 3), params, 0, None, keeper)
    names = {name for name in keeper.states[0].tensors if name.startswith("model.")}
    assert len(frozen) > 2
    assert not any(".embeddings." in name and name.endswith("weight") for name in names)
    assert "model.classifier.weight" in names


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    keeper = Keeper()
    train(tiny.save_checkpoint(tmp_path / "big", "bert"), "bert", keeper)
    small = tiny.save_checkpoint(tmp_path / "small", "bert", num_hidden_layers=2)
    with pytest.raises(TrialError, match=r"of another model: bert\.encoder\.layer\.2\."):
        train(small, "bert", Keeper(keeper.states[0]))
