"""What is stored of a batch's distributions: from logits to rows of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError
from kdcache.logits.tokens.arrays import array
from kdcache.logits.tokens.distributions import Distributions
from kdcache.logits.tokens.format import TokenHeader
from kdcache.logits.tokens.inputs import Sequences
from kdcache.logits.tokens.masses import MOST_ROWS
from kdcache.logits.tokens.outputs import Outputs
from kdcache.logits.tokens.rows import Ragged, TokenRows, to_gaps
from kdcache.logits.tokens.sampling import Drawn, Numbers, draw_with, random_numbers

if TYPE_CHECKING:
    from torch import Tensor, device

PIECE = 1 << 21  # values worked on at once on a CPU: enough for NumPy's calls not to take long
PIECE_OF_A_GPU = 1 << 26
LOWEST = float(np.finfo(np.float16).min)  # stands for log 0


@dataclass(frozen=True)
class Kept:
    """Selects what is stored of a batch's distributions, at the p positions whose next token is to be predicted."""

    layout: TokenHeader
    ids: npt.NDArray[np.int64]
    sequences: Sequences
    row: npt.NDArray[np.int64]  # [p], the row in the batch of each such position
    position: npt.NDArray[np.int64]  # [p], the place in the row of each such position

    def of(self, outputs: Outputs, labels: npt.NDArray[np.int64]) -> TokenRows:
        """The rows of the batch, from the model's outputs for it and the true next tokens [p]."""
        import torch

        device, size = outputs.values.device, self.layout.vocabulary.size
        numbers = random_numbers(self.layout.how, self.ids[self.row], self.position)
        places = torch.from_numpy(self.row * outputs.values.shape[1] + self.position).to(device)
        pieces, start = [], 0
        for logits in outputs.pieces(places, _step(device, size)):
            at = slice(start, start + len(logits))
            pieces.append(self._piece(logits[:, :size], labels[at], numbers[at], start))
            start = at.stop
            del logits  # so that the next ones get the same memory
        return self.assembled(pieces)

    def _piece(
        self, logits: Tensor, labels: npt.NDArray[np.int64], numbers: Numbers, start: int
    ) -> tuple[Drawn, npt.NDArray[Any], npt.NDArray[Any]]:
        import torch

        given = Distributions(logits if self.layout.temperature == 1 else logits / self.layout.temperature)
        entropy = given.entropies()
        if not bool(entropy.isfinite().all()):
            bad = start + int(entropy.isfinite().int().argmin())
            raise CacheError(
                f"row id {self.ids[self.row[bad]]}, position {self.position[bad]}: the teacher's logits are not all "
                "finite; check the model and its precision"
            )
        every = torch.arange(len(labels), device=logits.device)
        label = given.logprobs_at(every, torch.from_numpy(labels).to(logits.device))
        drawn = draw_with(self.layout.how, given, numbers)
        return drawn, half(array(label)), half(array(entropy.clamp_min(0)))

    def assembled(self, pieces: Sequence[tuple[Drawn, npt.NDArray[Any], npt.NDArray[Any]]]) -> TokenRows:
        drawn = _all([piece[0] for piece in pieces])
        lengths, draws = self.sequences.tokens.lengths, self.layout.how.draws
        places = (np.cumsum(lengths - 1) - (lengths - 1))[self.row] + self.position

        def spread(values: npt.NDArray[Any]) -> Ragged:
            """The values spread over every position of the batch, with zeros where nothing is stored."""
            whole = np.zeros(int((lengths - 1).sum()), values.dtype)
            whole[places] = values
            return Ragged(whole, lengths - 1)

        heads, tails = spread(drawn.heads), spread(drawn.tails)
        ids = np.zeros_like(lengths) if self.layout.shape.full else heads.sums()
        found = {
            "tokens": self.sequences.tokens,
            "starts": self.sequences.starts,
            "loss": self.sequences.loss,
            "heads": heads,
            "tails": tails,
            "head_ids": Ragged(
                to_gaps(drawn.head_ids, drawn.heads) if len(drawn.head_ids) else drawn.head_ids, ids
            ),
            "head_logprobs": Ragged(half(drawn.head_logprobs), heads.sums()),
            "tail_ids": Ragged(to_gaps(drawn.tail_ids, np.repeat(drawn.tails, draws)), draws * tails.sums()),
            "label_logprob": spread(
                np.concatenate([np.zeros(0, np.float32), *(piece[1] for piece in pieces)])
            ),
            "entropy": spread(np.concatenate([np.zeros(0, np.float32), *(piece[2] for piece in pieces)])),
        }
        columns = {
            name: Ragged(found[name].values.astype(dtype), found[name].lengths)
            for name, dtype in self.layout.columns().items()
        }
        return TokenRows(self.ids, self.sequences.hashes, self.layout.shape, columns)


def _step(where: device, vocabulary: int) -> int:
    """How many positions are worked on at once."""
    values = PIECE if where.type == "cpu" else PIECE_OF_A_GPU
    return min(max(values // vocabulary, 1), MOST_ROWS)


def _all(parts: Sequence[Drawn]) -> Drawn:
    none = np.zeros(0, np.int64)
    every = [Drawn(none, none, none, np.zeros(0, np.float32), none), *parts]
    names = Drawn.__dataclass_fields__
    return Drawn(*(np.concatenate([getattr(part, name) for part in every]) for name in names))


def half(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Values rounded to the 11 bits of a float16, but as float32: more readers of Parquet know that type."""
    return np.asarray(values.clip(LOWEST, -LOWEST).astype(np.float16).astype(np.float32))
