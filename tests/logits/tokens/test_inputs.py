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


# By hand: what apply_chat_template(return_assistant_tokens_mask=True) of transformers gives, and what TRL gives for a
# prompt with its completion.
@pytest.mark.parametrize("name", ["assistant_masks", "completion_mask", "loss_mask"])
def test_masks_of_chat_templates_and_trl_are_loss_masks(name: str) -> None:
    row = {"input_ids": [1, 2, 3, 4, 5, 6], name: [0, 0, 0, 1, 1, 1]}
    labelled = {"input_ids": row["input_ids"], "labels": [-100, -100, -100, 4, 5, 6]}
    assert read_sequences("here", [row]).loss.values.tolist() == [False] * 3 + [True] * 3
    padded = {
        "input_ids": torch.tensor([[*row["input_ids"], 0]]),
        name: torch.tensor([[0, 0, 0, 1, 1, 1, 0]]),
    }
    batch = {**padded, "attention_mask": torch.tensor([[1] * 6 + [0]])}
    assert len({read_sequences("here", rows).hashes[0] for rows in ([row], [labelled], batch)}) == 1
    with pytest.raises(CacheError, match=f"row 0: expected 6 values in {name}, found 5"):
        read_sequences("here", [{**row, name: [1] * 5}])


def test_a_token_counts_only_where_all_masks_say_so() -> None:
    row = {
        "input_ids": [1, 2, 3, 4, 5, 6],
        "labels": [1, 2, 3, 4, 5, -100],
        "loss_mask": [1, 0, 1, 1, 1, 1],
        "assistant_masks": [1, 1, 0, 1, 1, 1],
        "completion_mask": [1, 1, 1, 0, 1, 1],
    }
    assert read_sequences("here", [row]).loss.values.tolist() == [False, False, False, False, True, False]


def test_hashes_stay() -> None:
    """Of rows as they were hashed before there were further masks and positions; so earlier caches still fit."""
    rows = [
        {"input_ids": [1, 2, 3]},
        {"input_ids": [70000, 0, 5, 9], "document_starts": [0, 2], "loss_mask": [1, 1, 0, 1]},
        {"input_ids": [2**31 - 1, 4], "labels": [2**31 - 1, -100]},
    ]
    assert read_sequences("here", rows).hashes.tolist() == [
        3073841018791627874,
        13185906068335681346,
        13876587193277349441,
    ]


ALONE = {"input_ids": [1, 2, 3, 4]}
PACKED = {**ALONE, "document_starts": [0, 3]}
ANEW = "position_ids begin anew at position 3, but there are no document_starts that say so, .*to write_token_logits"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ALONE, "position_ids": [0, 1, 2, 0]}, ANEW),
        ({**PACKED, "position_ids": [0, 0, 1, 0]}, "position_ids begin anew at position 1"),
        (
            {**PACKED, "position_ids": [0, 1, 2, 3]},
            r"expected the position 0 at place 3 of position_ids, found 3; .* where document_starts say: \[0, 3\]",
        ),
        (
            {**ALONE, "position_ids": [1, 2, 3, 4]},
            "expected the position 0 at place 0 of position_ids, found 1",
        ),
        ({**ALONE, "position_ids": [0, 1, 2]}, "expected 4 position_ids, found 3"),
        (
            {**ALONE, "seq_lengths": [3, 1]},
            r"expected seq_lengths \[4\], found \[3, 1\]; the cache knows documents by",
        ),
        ({**PACKED, "seq_lengths": [4]}, r"expected seq_lengths \[3, 1\], found \[4\]"),
    ],
)
def test_positions_that_are_not_those_of_the_documents(row: Any, message: str) -> None:
    with pytest.raises(CacheError, match=f"^here, row 0: {message}"):
        read_sequences("here", [row])
    batch = {name: [values, values] for name, values in row.items()}
    with pytest.raises(CacheError, match=f"^here, row 0: {message}"):
        read_sequences("here", batch)


def test_positions_of_the_documents_change_nothing() -> None:
    expected = read_sequences("here", [PACKED, ALONE]).hashes.tolist()
    named = [
        {**PACKED, "position_ids": [0, 1, 2, 0], "seq_lengths": [3, 1]},
        {**ALONE, "position_ids": [0, 1, 2, 3], "seq_lengths": [4]},
    ]
    assert read_sequences("here", named).hashes.tolist() == expected
    padded = {
        "input_ids": torch.tensor([[1, 2, 3, 4, 0, 0]] * 2),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]] * 2),
        "position_ids": torch.tensor([[0, 1, 2, 0, 0, 0], [0, 1, 2, 3, 0, 0]]),
        "document_starts": [[0, 3], [0]],
    }
    assert read_sequences("here", padded).hashes.tolist() == expected


def test_positions_of_every_row_of_a_batch() -> None:
    """One row of positions is for all. Three for each token, as some families have them, are not compared."""
    batch = {"input_ids": torch.tensor([[1, 2, 3, 4]] * 2)}
    expected = read_sequences("here", batch).hashes.tolist()
    for positions in (torch.arange(4)[None], torch.zeros(3, 2, 4, dtype=torch.int64)):
        assert read_sequences("here", {**batch, "position_ids": positions}).hashes.tolist() == expected
    with pytest.raises(CacheError, match="row 0: position_ids begin anew at position 2"):
        read_sequences("here", {**batch, "position_ids": torch.tensor([[0, 1, 0, 1]])})
    unequal = {"input_ids": [[1, 2], [3, 4, 5]], "position_ids": [[0, 1], [0, 1, 0]]}
    with pytest.raises(CacheError, match="row 1: position_ids begin anew at position 2"):
        read_sequences("here", unequal)


@pytest.mark.parametrize("token", [2**31, 2**32 + 1, -1])
def test_tokens_that_no_vocabulary_has(token: int) -> None:
    """2^32 + 1 would have the hash of 1."""
    with pytest.raises(CacheError, match=r"expected token ids of 0 or more, below 2\^31"):
        read_sequences("here", [{"input_ids": [5, token]}])


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
        next(iter(cache.join([[{"input_ids": [1, 2]}]])))
    assert len(list(cache.join([{"input_ids": [[1, 2]]}]))) == 1
