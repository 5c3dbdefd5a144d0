"""Batches joined to a token cache: as long as the loader, as often as one likes, with each epoch's draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdcache.errors import CacheError
from kdcache.logits.tokens import TokenCache

from .conftest import sequences


def loader(size: int = 8) -> Any:
    rows = sequences(25)
    return torch.utils.data.DataLoader(
        rows, batch_size=size, collate_fn=lambda some: {"input_ids": [row["input_ids"] for row in some]}
    )


def test_every_epoch_has_all_batches(cache: TokenCache) -> None:
    joined = cache.join(loader())
    for _ in range(3):
        ids = [batch["teacher"].ids.tolist() for batch in joined]
        assert ids == [list(range(k, min(k + 8, 25))) for k in (0, 8, 16, 24)]
    assert len(joined) == 4
    with pytest.raises(TypeError):
        len(cache.join(batch for batch in loader()))


def test_an_epoch_has_its_draw(cache: TokenCache) -> None:
    """The cache has two draws."""
    joined = cache.join(loader(25), column="targets", epoch=1)
    for epoch in (None, 0, 1, 2):
        if epoch is not None:
            joined.set_epoch(epoch)
        (batch,) = joined
        expected = cache.batch(range(25), epoch=1 if epoch is None else epoch)
        assert torch.equal(batch["targets"].dense(), expected.dense())
    with pytest.raises(CacheError, match=r"epoch must be an integer of 0 or more, found 0\.5"):
        joined.set_epoch(0.5)  # type: ignore[arg-type]


def test_a_batch_that_is_not_in_the_cache_is_named(cache: TokenCache) -> None:
    joined = cache.join([{"input_ids": [sequences(25)[0]["input_ids"]]}, {"input_ids": [[1, 2, 3, 4]]}])
    for _ in range(2):
        batches = iter(joined)
        assert next(batches)["teacher"].ids.tolist() == [0]
        with pytest.raises(CacheError, match=r"^batch 1: .* no sequence like row 0"):
            next(batches)
