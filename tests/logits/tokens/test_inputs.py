"""Sequences as they are given: rows or a batch, and what cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.errors import CacheError
from kdcache.logits.tokens import TokenCache, write_token_logits
from kdcache.logits.tokens.inputs import read_sequences

from .conftest import FINGERPRINTS, Table


def test_a_batch_is_the_same_as_its_rows() -> None:
    batch = {"input_ids": [[1, 2, 0], [3, 4, 5]], "attention_mask": [[1, 1, 0], [1, 1, 1]]}
    rows = [{"input_ids": [1, 2]}, {"input_ids": [3, 4, 5]}]
    tensors = {key: torch.tensor(values) for key, values in batch.items()}
    expected = read_sequences("here", rows).hashes.tolist()
    for same in (batch, tensors, {"input_ids": [[1, 2], [3, 4, 5]], "labels": None}):
        assert read_sequences("here", same).hashes.tolist() == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": [[1, 2, 3], [2, 3, 4]], "attention_mask": [[1, 1, 1]]}, "as many rows as `input_ids`"),
        ({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1, 1]] * 2}, "'attention_mask': 2"),
        ({"input_ids": 5}, "expected columns with a value for each row"),
        ({"input_ids": torch.tensor(5)}, "expected columns with a value for each row"),
        ({"input_ids": None}, "expected a batch with `input_ids`, found 'input_ids'"),
        ({"input_ids": [1, 2]}, r"row 0: input_ids must be integers \[L\]"),
        ([{"input_ids": [[1], [2, 3]]}], r"row 0: input_ids must be integers \[L\], one row's"),
        ([{"input_ids": [1, 2], "labels": [[1], [2, 3]]}], r"row 0: labels must be integers \[L\]"),
    ],
)
def test_what_cannot_be_read(given: Any, message: str) -> None:
    with pytest.raises(CacheError, match=f"^here.*{message}"):
        read_sequences("here", given)


def test_a_token_counts_only_where_labels_and_loss_mask_both_say_so() -> None:
    row = {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, -100, 4, 5], "loss_mask": [1, 1, 1, 0, 1]}
    assert read_sequences("here", [row]).loss.values.tolist() == [False, True, False, False, True]
    batch = {name: torch.tensor([values]) for name, values in row.items()}
    assert read_sequences("here", batch).hashes.tolist() == read_sequences("here", [row]).hashes.tolist()
    with pytest.raises(CacheError, match="row 0: expected 5 values in loss_mask, found 4"):
        read_sequences("here", [{**row, "loss_mask": [1] * 4}])


@pytest.mark.parametrize("rows", [[[1, 2], [3, 4, 5]], [[3, 4, 5], [1, 2]]])
def test_a_batch_that_is_not_padded_is_matched_in_any_order(tmp_path: Path, rows: list[list[int]]) -> None:
    batch = {"input_ids": rows}
    cache: TokenCache = write_token_logits(Table(), batch, tmp_path, fingerprints=FINGERPRINTS)
    matched = cache.match(batch)
    assert [line[mask.bool()].tolist() for line, mask in zip(*matched_parts(matched), strict=True)] == rows


def matched_parts(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return batch.tokens, batch.attention_mask


def test_what_join_cannot_iterate(tmp_path: Path) -> None:
    cache = write_token_logits(Table(), [{"input_ids": [1, 2]}], tmp_path, fingerprints=FINGERPRINTS)
    for wrong, name in ((None, "NoneType"), (5, "int"), ({"input_ids": [[1, 2]]}, "dict"), ("rows", "str")):
        with pytest.raises(CacheError, match=f"expected batches to join, such as a DataLoader, found {name}"):
            cache.join(wrong)
    with pytest.raises(CacheError, match="batch 0: expected a mapping with `input_ids`, found list"):
        next(cache.join([[{"input_ids": [1, 2]}]]))
    assert len(list(cache.join([{"input_ids": [[1, 2]]}]))) == 1
