"""A teacher's threads: as many as it declares, wherever it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.study import Teacher
from kdcache.trials import cache as caching
from kdcache.trials import teach as teaching
from tests import tiny_models as tiny
from tests.doing import cache_logits, prepare_words, teach

RECIPE: dict[str, Any] = {"learning_rate": 0.003, "epochs": 1, "batch_size": 8, "precision": "float32"}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_teacher_and_its_logits_are_computed_on_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    task = prepare_words(tmp_path)
    tiny.save_checkpoint(tmp_path / "bert", "bert")
    used: list[int] = []

    def noted(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            used.append(torch.get_num_threads())
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(teaching, "learn", noted(teaching.learn))
    monkeypatch.setattr(caching, "write_logits", noted(caching.write_logits))
    teacher = Teacher(checkpoint=str(tmp_path / "bert"), threads=threads, **RECIPE)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        teach("big", task, teacher, tmp_path / "taught", "identity")
        cache_logits("big", task, teacher, tmp_path / "taught", tmp_path / "cache")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert used == [threads, threads]
