"""1,000 wrong rows against a cache of packed documents: each is refused. Right rows are accepted in any order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch

from kdcache.errors import CacheError
from kdcache.logits.tokens import Threshold, TokenCache, write_token_logits
from kdcache.logits.tokens.inputs import read_sequences
from kdcache.modelling.preprocessors import open_tokenizer
from kdcache.modelling.tokens.packing import pack

from .conftest import FINGERPRINTS, OfDocuments

MODEL = Path(__file__).parents[3] / "data" / "models" / "gpt2-tiny"
WORDS = "Markets rose sharply before yesterday unexpected announcement while ministers argued about pensions"
TRIES, LENGTH = 200, 16

Random: TypeAlias = np.random.Generator
Row: TypeAlias = dict[str, Any]


class Corpus:
    """Documents, their tokenizer, and the rows that they are packed into."""

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        self.tokenizer = open_tokenizer(MODEL)
        self.texts = [" ".join(random.choice(WORDS.split(), random.integers(4, 30))) for _ in range(40)]
        self.documents = [self.encoded(text) for text in self.texts]
        self.rows = self.packed(self.documents)

    def encoded(self, text: str) -> np.ndarray:
        return np.array(self.tokenizer(text)["input_ids"], np.int64)

    def packed(self, documents: list[np.ndarray], length: int = LENGTH) -> list[Row]:
        return pack(documents, self.tokenizer.eos_token_id, length).rows


def wrong(corpus: Corpus, random: Random) -> Row:
    """A row of another text, which the teacher never saw."""
    text = " ".join(random.choice(WORDS.split(), 40))
    return some(corpus.packed([corpus.encoded(text)]), random)


def shuffled(corpus: Corpus, random: Random) -> Row:
    """A row whose tokens are in another order."""
    row = some(corpus.rows, random)
    return {**row, "input_ids": random.permutation(row["input_ids"])}


def repacked(corpus: Corpus, random: Random) -> Row:
    """A row of the same documents in another order, or cut at another length."""
    order = random.permutation(len(corpus.documents))
    rows = (
        corpus.packed([corpus.documents[k] for k in order])
        if random.random() < 0.5
        else corpus.packed(corpus.documents, int(random.choice([LENGTH - 1, LENGTH + 1, LENGTH * 2])))
    )
    return some(rows, random)


def retokenised(corpus: Corpus, random: Random) -> Row:
    """A row of the same texts, in which words were torn apart before they were turned into tokens."""
    documents = []
    for text in corpus.texts:
        cut = int(random.integers(1, len(text)))
        documents.append(np.concatenate([corpus.encoded(text[:cut]), corpus.encoded(text[cut:])]))
    return some(corpus.packed(documents), random)


def off_by_one(corpus: Corpus, random: Random) -> Row:
    """A row whose tokens, documents or loss mask are one place to the left or right of where they were."""
    row, by = some(corpus.rows, random), int(random.choice([-1, 1]))
    starts, what = row["document_starts"], random.integers(3)
    if what == 0 and len(starts) > 1:
        return {**row, "document_starts": np.concatenate([[0], starts[1:] + by])}
    if what == 1:
        return {**row, "loss_mask": np.roll(row["loss_mask"], by)}
    return {**row, "input_ids": np.roll(row["input_ids"], by)}


def some(rows: list[Row], random: Random) -> Row:
    return rows[random.integers(len(rows))]


KINDS: list[Callable[[Corpus, Random], Row]] = [wrong, shuffled, repacked, retokenised, off_by_one]


def key(row: Row) -> tuple[Any, ...]:
    """All that a distribution depends on, and which tokens it is asked for; the first is never predicted."""
    names = ("input_ids", "document_starts", "loss_mask")
    tokens, starts, loss = (np.asarray(row[name]).astype(np.int64).tolist() for name in names)
    return tuple(tokens), tuple(starts), tuple(loss[1:])


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


@pytest.fixture(scope="module")
def cache(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    folder = tmp_path_factory.mktemp("cache")
    teacher = OfDocuments(len(corpus.tokenizer))
    how = {"tokenizer": corpus.tokenizer, "fingerprints": FINGERPRINTS}
    return write_token_logits(teacher, corpus.rows, folder, Threshold(1 / 8), **how)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_row_is_always_refused(
    corpus: Corpus, cache: TokenCache, kind: Callable[[Corpus, Random], Row]
) -> None:
    random, known, tries = np.random.default_rng(KINDS.index(kind)), set(map(key, corpus.rows)), 0
    while tries < TRIES:
        row = kind(corpus, random)
        if not is_row(row) or key(row) in known:
            continue  # by chance it is no row at all, or one of the cache's own
        tries += 1
        right = [some(corpus.rows, random) for _ in range(random.integers(4))]
        place = int(random.integers(len(right) + 1))
        with pytest.raises(CacheError, match=f"no sequence like row {place} .* belongs to its prefix"):
            cache.match([*right[:place], row, *right[place:]])


def is_row(row: Row) -> bool:
    """Whether a row can be read at all; those that cannot are refused before any look-up."""
    try:
        read_sequences("a row", [row])
    except CacheError:
        return False
    return True


def test_right_rows_are_accepted_in_any_order(corpus: Corpus, cache: TokenCache) -> None:
    random = np.random.default_rng(0)
    keys = list(map(key, corpus.rows))
    for _ in range(TRIES // 4):
        order = random.permutation(len(corpus.rows))[: random.integers(1, 9)]
        batch = cache.match([corpus.rows[k] for k in order])
        assert [keys[k] for k in batch.ids] == [keys[k] for k in order]
        own = cache.batch(batch.ids)
        assert torch.equal(batch.tokens, own.tokens)
        assert all(
            torch.equal(getattr(batch, name), getattr(own, name)) for name in ("position", "token", "weight")
        )
