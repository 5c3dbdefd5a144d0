"""A language model's logits at only those positions for which they are needed, a few positions at a time.

A model's last layer, its head, makes V numbers out of a few hundred. If the head can be called alone, the logits of a
whole batch [b, L, V] never exist. To allocate and fill that much memory takes a small model a third of its time. And
positions that nobody asks for cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MORE = 2  # a table of positions may have this many rows more than there are positions, as OPT's has
HEAD = 256  # least number of positions that a head gets at once: with fewer, reading its weights would take too long


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for a batch.

    Args:
        values: [b, L, outputs], logits; or [b, L, H], from which the head makes logits.
        head: gives logits [n, outputs] for values [n, H]; None if the values are logits.
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
                # They have no name here, which would hold them while the next ones are made: these get the same memory.
                yield from torch.split((chosen if self.head is None else self.head(chosen)).float(), step)


@dataclass(frozen=True)
class InTwo:
    """A model of transformers as its body, from inputs to hidden states, and its head."""

    body: Callable[..., Any]
    head: Callable[[Tensor], Tensor]

    def __call__(self, **inputs: Any) -> Outputs:
        return Outputs(self.body(**inputs).last_hidden_state, self.head)


def of_transformers(model: Any) -> bool:
    """Whether this is a model of transformers itself, not a module around such a model."""
    return hasattr(type(model), "get_output_embeddings")


def most_positions(model: Any) -> int | None:
    """How many positions a model of transformers has in a table; None if it computes them for a row of any length.

    Such a table is an embedding beside that of the tokens (GPT-2, OPT), or a buffer `embed_positions` (GPT-J), with as
    many rows as the configuration has positions.
    """
    import torch

    most = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(model, torch.nn.Module) or not isinstance(most, int):
        return None
    tokens_of = getattr(model, "get_input_embeddings", None)
    of_tokens = tokens_of() if tokens_of else None
    embeddings = [
        one for one in model.modules() if isinstance(one, torch.nn.Embedding) and one is not of_tokens
    ]
    buffers = [one for name, one in model.named_buffers() if name.endswith("embed_positions")]
    sizes = [one.num_embeddings for one in embeddings] + [len(one) for one in buffers]
    return most if any(most <= size <= most + MORE for size in sizes) else None


def in_two(model: Any, inputs: Mapping[str, Any], logits: Tensor) -> InTwo | None:
    """The model as its body and its head, if these two alone give its logits, bit for bit.

    Some models do more to the logits (for example, they scale or cap them), and a module around a model hides the
    model's parts. Such a model is run as a whole.

    Args:
        inputs: a batch. logits: the model's logits for it.
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
    weight = getattr(parts.head, "weight", states)
    if weight.is_floating_point() and weight.dtype != states.dtype:
        return (
            None  # such as Mamba in half precision, whose states are float32; it converts them for its head
        )
    return parts if torch.equal(parts.head(states).float(), logits.float()) else None
