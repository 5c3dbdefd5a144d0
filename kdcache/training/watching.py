"""Who looks on while a model is trained: shows how far it is, tells a tracker, keeps its state to go on from."""

from __future__ import annotations

from dataclasses import dataclass

from kdcache.training.state import State


@dataclass(frozen=True)
class Epoch:
    """An epoch that was trained: its number from 1, of how many, its mean loss, the rows seen now, and the seconds."""

    number: int
    of: int
    loss: float
    rows: int
    seconds: float


class Watch:
    """This one does nothing; `kdcache.trials.watching` has one that does. None changes what is computed.

    Every process of an `accelerate launch` has one. All are asked the same things at the same steps.
    """

    def state(self) -> State | None:
        """The state to go on from; None: train from the start. Asked once, before the first step."""
        return None

    def begins(self, steps: int, done: int) -> None:
        """Training begins, or goes on: of so many optimizer steps so many are done."""

    def step(self) -> None:
        """An optimizer step was taken. On a GPU it may be under way still."""

    def wants_state(self) -> bool:
        """Whether the state is to be kept now; the same in every process. Asked after each step."""
        return False

    def keep(self, state: State) -> None:
        """Keep the state; its tensors change with the next step."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch has ended."""


NOBODY = Watch()
