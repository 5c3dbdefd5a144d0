"""A batch of a token cache: what a student is to be called with, so that it sees what its teacher saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcache.logits.tokens import Full, TokenBatch, TokenCache, kd_token_loss, write_token_logits

from .families import causal_model

Rows = list[dict[str, Any]]
LENGTHS = (12, 9, 12, 7)


def rows_of(packed: bool) -> Rows:
    random = np.random.default_rng(0)
    rows: Rows = [{"input_ids": random.integers(0, 50, length).tolist()} for length in LENGTHS]
    for row in rows[:2] if packed else []:
        row["document_starts"] = [0, 5]
    return rows


def padded(rows: Rows) -> dict[str, Any]:
    """The rows as a batch of one's own, padded to 14 tokens."""
    ids, mask = torch.zeros(len(rows), 14, dtype=torch.int64), torch.zeros(len(rows), 14, dtype=torch.int64)
    for k, row in enumerate(rows):
        ids[k, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        mask[k, : len(row["input_ids"])] = 1
    starts = [row.get("document_starts", [0]) for row in rows]
    return {"input_ids": ids, "attention_mask": mask, "document_starts": starts}


WAYS: dict[str, Callable[[TokenCache, Rows], TokenBatch]] = {
    "batch": lambda cache, rows: cache.batch([1, 0, 3, 2]),
    "stream": lambda cache, rows: next(iter(cache.stream("train", 4))),
    "match rows": lambda cache, rows: cache.match(rows),
    "match a batch": lambda cache, rows: cache.match(padded(rows)),
    "join": lambda cache, rows: next(iter(cache.join([padded(rows)])))["teacher"],
}


def kl(teacher: Any, batch: TokenBatch, inputs: Mapping[str, torch.Tensor]) -> float:
    with torch.no_grad():
        return float(kd_token_loss(teacher(**inputs, use_cache=False).logits, batch))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_teacher_is_its_own_best_student(way: str, packed: bool, tmp_path: Path) -> None:
    teacher, rows = causal_model("gpt2").eval(), rows_of(packed)
    for weight in teacher.parameters():
        weight.data.mul_(20 if weight.ndim > 1 else 1)  # so that what comes before a token matters
    cache = write_token_logits(teacher, rows, tmp_path, Full())
    batch = WAYS[way](cache, rows)
    assert abs(kl(teacher, batch, batch.inputs)) < 1e-4  # float16's 11 bits
    if packed:
        assert kl(teacher, batch, {"input_ids": batch.tokens}) > 0.01


def test_what_a_student_is_called_with(tmp_path: Path) -> None:
    teacher, rows = causal_model("gpt2"), rows_of(packed=True)
    cache = write_token_logits(teacher, rows, tmp_path, Full())

    def given(ids: list[int]) -> dict[str, Any]:
        return {name: values.tolist() for name, values in cache.batch(ids).inputs.items()}

    ids = [row["input_ids"] for row in rows]
    second = [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]  # nine tokens, two documents
    packed = {"input_ids": [[*ids[1], 0, 0, 0], ids[2]], "position_ids": [second, list(range(12))]}
    assert given([1, 2]) == packed
    assert given([2]) == {"input_ids": [ids[2]]}
    assert given([3, 2]) == {
        "input_ids": [[*ids[3], 0, 0, 0, 0, 0], ids[2]],
        "attention_mask": [[1] * 7 + [0] * 5, [1] * 12],
    }
    moved = cache.batch([1, 2]).to("meta")
    assert {values.device.type for values in (*moved.inputs.values(), moved.tokens)} == {"meta"}
