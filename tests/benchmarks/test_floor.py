"""The floor of a training step: its matrix products counted by hand and by torch's own counter."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import floor


def small() -> transformers.BertConfig:
    return transformers.BertConfig(
        hidden_size=4,
        intermediate_size=8,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=50,
        attn_implementation="eager",
    )


def test_products_by_hand() -> None:
    """3 rows of 5 tokens: a layer is 15 x 2 (4 x 16 + 2 x 32) + 6 heads x 2 (2 x 5 x 2 x 5) = 5,040; two layers."""
    forward = floor.products(small(), rows=3, tokens=5)
    assert floor.flops(forward) == 10_080
    assert floor.flops(floor.with_backward(forward)) == 30_240


def test_products_are_what_torch_counts() -> None:
    model = transformers.BertModel(small(), add_pooling_layer=False)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(3, 5, dtype=torch.long)).last_hidden_state.sum().backward()
    assert counter.get_total_flops() == floor.flops(floor.with_backward(floor.products(small(), 3, 5)))


def test_a_floor_adds_up_all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1 ms a product: 2 layers x 8 products x 3. AdamW moves 28 bytes a parameter, and the sum of vectors 12."""
    monkeypatch.setattr(floor, "seconds_of", lambda work: work() is None or 0.001)
    found = floor.floor(small(), rows=3, tokens=5, parameters=1000)
    assert set(found) == {"float32", "bfloat16"}
    for one in found.values():
        assert one["products_ms"] == pytest.approx(48)
        assert one["optimizer_ms"] == pytest.approx(28 / 12)
        assert one["gigaflops_per_second"] == pytest.approx(30_240 / 1e9 / 0.048)


def test_time_is_of_one_call() -> None:
    assert 0 < floor.seconds_of(lambda: sum(range(1000)), least=0.01) < 0.01


def test_a_step_is_profiled() -> None:
    from kdcache.modelling.building import build_model
    from kdcache.study import Student

    checkpoint = str(floor.ROOT / "data/models/bert-tiny")
    student = Student(checkpoint=checkpoint, learning_rate=1e-4, epochs=1, batch_size=2)
    card, start, preprocessor = floor.headlines(student)
    found = floor.step(build_model(start, card, 0, preprocessor), student, floor.split_of(4, 6))
    assert found["step_ms"] > 0
    assert 0 < sum(found["profile"].values()) <= 101
