"""Small token caches that the tests of this folder write, read and break."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.logits import Fingerprints
from kdcache.logits.tokens import Threshold, TokenCache, write_token_logits

FINGERPRINTS = Fingerprints(data="d" * 8, weights="w" * 8, preprocessing="p" * 8, code="c" * 8)
VOCABULARY = 150


def sequences(count: int, seed: int = 0, longest: int = 12, vocabulary: int = VOCABULARY) -> list[dict]:
    """Rows of 2 to `longest` tokens."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, longest + 1, count)
    return [{"input_ids": random.integers(0, vocabulary, length).tolist()} for length in lengths]


class Table:
    """A teacher whose distribution depends on the tokens so far, and on nothing else in the batch."""

    def __init__(self, vocabulary: int = VOCABULARY, spread: float = 2.5, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.logits = spread * torch.randn(97, vocabulary, generator=random)

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.logits[(input_ids.cumsum(1) * 31 + torch.arange(input_ids.shape[1])) % 97]


class OfDocuments(Table):
    """A teacher that keeps the documents of a row apart: only the tokens of the same document so far count."""

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if position_ids is None:
            return super().__call__(input_ids, attention_mask)
        total, begin = input_ids.cumsum(1), torch.arange(input_ids.shape[1]) - position_ids
        before = total.gather(1, (begin - 1).clamp_min(0)) * (begin > 0)
        return self.logits[((total - before) * 31 + position_ids) % 97]


def write_cache(path: Path, counts: dict[str, int] | None = None, estimator=None, **options) -> Path:
    """A cache with the splits train (25 rows in shards of 10) and validation (7 rows)."""
    splits = {
        name: sequences(count, seed)
        for seed, (name, count) in enumerate((counts or {"train": 25, "validation": 7}).items())
    }
    defaults = {"fingerprints": FINGERPRINTS, "rows_per_shard": 10, "batch_size": 4}
    how = estimator or Threshold(1 / 12, draws=2)
    write_token_logits(Table(), splits, path, how, **{**defaults, **options})
    return path


@pytest.fixture
def cache(tmp_path: Path) -> TokenCache:
    return TokenCache(write_cache(tmp_path / "cache"))
