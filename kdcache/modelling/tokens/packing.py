"""Documents as packed sequences: how a causal language model is given them, and whose token each predicted one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.logits.tokens.inputs import Sequences
from kdcache.logits.tokens.rows import Ragged

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """A split's documents in sequences of L tokens.

    Args:
        sequences: n of them, each with where documents begin in it, and which of its tokens are to be predicted.
        document: int64 [T], of each predicted token its document's row, in the order of sequences and positions.
        documents: how many there are.
    """

    sequences: Sequences
    document: Ints
    documents: int

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def rows(self) -> list[dict[str, npt.NDArray[Any]]]:
        """The sequences as rows of a data set, for `kdcache.write_token_logits`."""
        columns = (self.sequences.tokens, self.sequences.starts, self.sequences.loss)
        names = ("input_ids", "document_starts", "loss_mask")
        return [
            dict(zip(names, row, strict=True)) for row in zip(*(one.rows() for one in columns), strict=True)
        ]


def pack(documents: Sequence[npt.NDArray[np.integer]], end: int, length: int) -> Packed:
    """Documents one after the other, cut into sequences of `length` tokens; every token is predicted exactly once.

    The stream is `end`, first document, `end`, second document, ..., `end`: the token before a document is what its
    first token is predicted from, and the one behind it, which is predicted too, says that it is over. A sequence
    begins with the last token of the one before it. The last sequence reaches back far enough to be full, so that no
    batch is padded; what was predicted before is not predicted again. Where documents begin is kept, so that a model
    can keep them apart: a token is predicted from its own document alone, as far as it is in the same sequence.

    Args:
        documents: token ids [t] each, at least one of them with a token.
        end: the token between documents.
        length: L, 2 or more; one sequence is shorter where there are fewer tokens than that.
    """
    stream = np.concatenate([*(part for tokens in documents for part in ([end], tokens)), [end]]).astype(
        np.int64
    )
    begins = np.cumsum(
        [0, *(len(tokens) + 1 for tokens in documents)]
    )  # of each document its `end` before it
    length = min(length, len(stream))
    first = np.arange(0, len(stream) - 1, length - 1)
    first[-1] = len(stream) - length
    places = first[:, None] + np.arange(length)
    done = np.maximum.accumulate([0, *places[:-1, -1]])  # the last token that an earlier sequence predicts
    loss = places > done[:, None]
    loss[:, 0] = False
    lengths = np.full(len(first), length)
    sequences = Sequences(
        Ragged(stream[places].reshape(-1), lengths),
        Ragged.of([_starts(begins, row) for row in places], np.int64),
        Ragged(loss.reshape(-1), lengths),
    )
    return Packed(sequences, np.searchsorted(begins, places[loss], "left") - 1, len(documents))


def _starts(begins: Ints, places: Ints) -> Ints:
    """Where documents begin in a sequence; the first token of a sequence begins what there is of its document."""
    inside = begins[(begins > places[0]) & (begins <= places[-1])]
    return np.concatenate([[0], inside - places[0]])
