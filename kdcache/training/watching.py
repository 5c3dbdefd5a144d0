"""A watch follows the training of a model: it shows progress, tells a tracker, and keeps the state to continue from."""

from __future__ import annotations

from dataclasses import dataclass

from kdcache.training.state import State


@dataclass(frozen=True)
class Epoch:
    """A trained epoch: its number from 1, the number of epochs, its mean loss, the rows seen, the seconds."""

    number: int
    of: int
    loss: float
    rows: int
    seconds: float


class Watch:
    """A watch that does nothing; `kdcache.trials.watching` has the real one. No watch changes what is computed.

    Every process of an `accelerate launch` has one, and all are called at the same steps.
    """

    def state(self) -> State | None:
        """The state to continue from, or None to train from the start. Called once, before the first step."""
        return None

    def begins(self, steps: int, done: int) -> None:
        """Training begins or continues, with this many of all optimizer steps done."""

    def step(self) -> None:
        """An optimizer step was started. On a GPU it may still be running."""

    def wants_state(self) -> bool:
        """Whether to keep the state now; the same in every process. Called after each step."""
        return False

    def keep(self, state: State) -> None:
        """Keep the state. Its tensors change with the next step, so they have to be copied or written now."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch has ended."""


NOBODY = Watch()
