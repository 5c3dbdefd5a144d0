"""Documents cut into short pieces, by hand."""

from __future__ import annotations

import pytest

from tools.pretraining import PretrainingError
from tools.pretraining.pieces import cut, sample_pieces
from tools.pretraining.recipe import Distillation


def distillation(**changes: object) -> Distillation:
    values = {"teacher": "t", "pieces": 100, "longest_piece": 4, "epochs": 1, "learning_rate": 1e-3}
    return Distillation.model_validate({**values, **changes})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "One two three. Four five six!  Seven eight nine?",
            ["One two three.", "Four five six!", "Seven eight nine?"],
        ),
        ("a headline here\nand its text", ["a headline here", "and its text"]),
        ("version 1.5 came out", ["version 1.5 came out"]),  # a dot inside a word ends nothing
        ("a b c d e", ["c d e"]),  # five words are two and three: two are too few
        ("a b c d e f g", ["a b c", "d e f g"]),
        ("a b c d e f g h i", ["a b c", "d e f", "g h i"]),
        ("too short.", []),
        (" \n ", []),
    ],
)
def test_sentences_and_equal_parts_of_long_ones(text, expected):
    assert list(cut(text, longest=4)) == expected


def test_every_piece_comes_once():
    texts = ["b b b.", "a a a. b b b.", "c c c."]
    assert sorted(sample_pieces(texts, distillation())) == ["a a a.", "b b b.", "c c c."]


def test_a_sample_is_of_the_size_asked_for_and_its_seeds():
    texts = [f"piece number {i}" for i in range(200)]
    one, same, other = (sample_pieces(texts, distillation(pieces=50, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert len(set(one)) == 50
    assert one != sorted(one, key=texts.index)
    assert sample_pieces(texts, distillation(pieces=60, seed=1))[:50] == one  # more only adds


def test_texts_without_a_piece_are_refused():
    with pytest.raises(PretrainingError, match="no sentence of 3 words or more"):
        sample_pieces(["so short", "x"], distillation())
