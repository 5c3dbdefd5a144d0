"""Short pieces of documents, as long as a headline or a question: the texts whose embeddings are distilled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from tools.pretraining.errors import PretrainingError
from tools.pretraining.recipe import Distillation

FEWEST_WORDS = 3  # a piece of fewer words says too little

# A sentence ends where its line ends, or after a full stop, question or exclamation mark before a space.
_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")


def sample_pieces(texts: Sequence[str], recipe: Distillation) -> list[str]:
    """`recipe.pieces` different pieces of the texts (all if there are fewer), in an order drawn from the seed.

    A larger `recipe.pieces` adds pieces at the end, and changes no earlier ones.

    Raises:
        PretrainingError: the texts have no piece: all are shorter than three words.
    """
    distinct = list(dict.fromkeys(piece for text in texts for piece in cut(text, recipe.longest_piece)))
    if not distinct:
        raise PretrainingError(f"the texts have no sentence of {FEWEST_WORDS} words or more: add text")
    order = np.random.default_rng(recipe.seed).permutation(len(distinct))
    return [distinct[index] for index in order[: recipe.pieces]]


def cut(text: str, longest: int) -> Iterator[str]:
    """The sentences. One of more than `longest` words is cut into as few parts as possible, of nearly equal length."""
    for sentence in _ENDS.split(text):
        words = sentence.split()
        parts = -(-len(words) // longest)
        for part in range(parts):
            piece = words[len(words) * part // parts : len(words) * (part + 1) // parts]
            if len(piece) >= FEWEST_WORDS:
                yield " ".join(piece)
