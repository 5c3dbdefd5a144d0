"""Documents in packed sequences: every token is predicted once, from its own document, and counted for it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.logits.tokens.inputs import read_sequences
from kdcache.modelling.tokens.packing import Packed, pack


def packed(documents: list[list[int]], length: int) -> Packed:
    return pack([np.array(tokens) for tokens in documents], 0, length)


def test_two_documents_by_hand() -> None:
    # the stream is 0 5 6 7 | 0 8 | 0
    found = packed([[5, 6, 7], [8]], 4)
    assert [row.tolist() for row in found.sequences.tokens.rows()] == [[0, 5, 6, 7], [7, 0, 8, 0]]
    assert [row.tolist() for row in found.sequences.starts.rows()] == [[0], [0, 1, 3]]
    assert [row.tolist() for row in found.sequences.loss.rows()] == [[False, True, True, True]] * 2
    assert found.document.tolist() == [0, 0, 0, 0, 1, 1]  # 5 6 7 and the end behind them; 8 and its end
    assert found.documents == 2


def test_the_last_sequence_reaches_back_and_predicts_nothing_twice() -> None:
    found = packed([[5, 6, 7], [8]], 5)
    assert [row.tolist() for row in found.sequences.tokens.rows()] == [[0, 5, 6, 7, 0], [6, 7, 0, 8, 0]]
    assert [row.tolist() for row in found.sequences.loss.rows()][1] == [False, False, False, True, True]
    assert found.document.tolist() == [0, 0, 0, 0, 1, 1]


def test_fewer_tokens_than_a_sequence_are_one_shorter_sequence() -> None:
    found = packed([[5]], 32)
    assert [row.tolist() for row in found.sequences.tokens.rows()] == [[0, 5, 0]]
    assert found.document.tolist() == [0, 0]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=6), st.integers(2, 9)
)
def test_every_token_is_predicted_once_and_belongs_to_its_document(
    documents: list[list[int]], length: int
) -> None:
    found = packed(documents, length)
    tokens, loss = (column.rows() for column in (found.sequences.tokens, found.sequences.loss))
    predicted = [int(token) for row, mask in zip(tokens, loss, strict=True) for token in row[mask]]
    assert predicted == [token for document in documents for token in [*document, 0]]
    counts = np.bincount(found.document, minlength=len(documents)).tolist()
    assert counts == [len(document) + 1 for document in documents]
    assert len({len(row) for row in tokens}) == 1  # so no batch is padded


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), min_size=1, max_size=4), st.integers(2, 7)
)
def test_rows_are_the_very_sequences(documents: list[list[int]], length: int) -> None:
    found = packed(documents, length)
    again = read_sequences("rows", found.rows)
    assert np.array_equal(again.hashes, found.sequences.hashes)
