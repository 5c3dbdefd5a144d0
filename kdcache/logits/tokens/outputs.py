"""A language model's logits at the positions where they are asked for, a few positions at a time.

The last layer of a model, its head, makes V numbers of a few hundred. Where the head can be called alone, the logits of
a whole batch [b, L, V] never exist: allocating and filling that much memory takes a small model a third of its time,
and positions that nobody asks for cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

HEAD = 256  # positions that a head gets at once, or more: with fewer, reading its weights would take too long


@dataclass(frozen=True)
class Outputs:
    """What a model gives for a batch.

    Args:
        values: [b, L, outputs], logits; or [b, L, H], what the head makes logits of.
        head: gives logits [n, outputs] for values [n, H]; None, if the values are logits.
    """

    values: Tensor
    head: Callable[[Tensor], Tensor] | None = None

    def pieces(self, places: Tensor, step: int) -> Iterator[Tensor]:
        """The logits at some places [p] of the flat batch [b * L], float32 [step, outputs] at a time."""
        import torch

        values = self.values.flatten(0, 1)
        size = step if self.head is None else step * -(-HEAD // step)
        with torch.inference_mode():
            for start in range(0, len(places), size):
                chosen = values.index_select(0, places[start : start + size])
                logits = (chosen if self.head is None else self.head(chosen)).float()
                yield from torch.split(logits, step)


@dataclass(frozen=True)
class InTwo:
    """A model of transformers as its body, from inputs to hidden states, and its head."""

    body: Callable[..., Any]
    head: Callable[[Tensor], Tensor]

    def __call__(self, **inputs: Any) -> Outputs:
        return Outputs(self.body(**inputs).last_hidden_state, self.head)


def of_transformers(model: Any) -> bool:
    """Whether this is a model of transformers itself, not a module around one."""
    return hasattr(type(model), "get_output_embeddings")


def in_two(model: Any, inputs: Mapping[str, Any], logits: Tensor) -> InTwo | None:
    """The model as its body and its head, if these two alone give its logits, bit for bit.

    Some models do more to them (they scale or cap them, for example), and a module around a model hides its parts: such
    a model is run as a whole.

    Args:
        inputs: a batch. logits: what the model gives for it.
    """
    import torch

    if not of_transformers(model):
        return None
    parts = InTwo(model.base_model, model.get_output_embeddings())
    if parts.head is None or parts.body is model:
        return None
    states = getattr(parts.body(**inputs), "last_hidden_state", None)
    if states is None or states.shape[:2] != logits.shape[:2]:
        return None
    return parts if torch.equal(parts.head(states).float(), logits.float()) else None
