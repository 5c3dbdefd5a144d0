"""Which stage may start next. Nothing here knows of DVC, of processes or of time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum


class State(Enum):
    FRESH = "up to date"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DROPPED = "not started, because a stage before it failed"


class Schedule:
    """The stages of a pipeline and how far each one is.

    Args:
        order: all stages, each after those it depends on.
        upstream: the stages that each one depends on directly.
        changed: those that are known to have to run. One that comes after them has to be looked at, too; all others are
            up to date.
    """

    def __init__(
        self, order: Sequence[str], upstream: Mapping[str, Collection[str]], changed: Collection[str]
    ) -> None:
        self.order = list(order)
        self.states: dict[str, State] = {}
        self._upstream = upstream
        for name in self.order:
            fresh = name not in changed and all(
                self.states[needed] is State.FRESH for needed in upstream[name]
            )
            self.states[name] = State.FRESH if fresh else State.WAITING
        self._to_the_end = _to_the_end(self.order, upstream)

    def ready(self) -> list[str]:
        """Waiting stages that nothing holds up; first those with the longest way to the end of the pipeline."""
        free = [name for name in self.having(State.WAITING) if self._is_free(name)]
        return sorted(free, key=lambda name: -self._to_the_end[name])  # stable: otherwise in order

    def ready_together(self, names: Collection[str]) -> list[str]:
        """Those of `names` that wait for others of them at most, in an order in which one process can run them."""
        together: list[str] = []
        for name in self.having(State.WAITING):
            if name in names and all(
                self._has_ended(needed) or needed in together for needed in self._upstream[name]
            ):
                together.append(name)
        return together

    @property
    def last(self) -> set[str]:
        """The stages that no other stage waits for."""
        return {name for name in self.order if not self._to_the_end[name]}

    def start(self, name: str) -> None:
        self.states[name] = State.RUNNING

    def wait_again(self, name: str) -> None:
        """A stage that was started is to be started once more."""
        self.states[name] = State.WAITING

    def finish(self, name: str, ok: bool) -> list[str]:
        """Note a stage's end; the stages that cannot run any more, because it failed."""
        self.states[name] = State.DONE if ok else State.FAILED
        dropped = []
        for later in self.having(State.WAITING):
            if any(self.states[needed] in (State.FAILED, State.DROPPED) for needed in self._upstream[later]):
                self.states[later] = State.DROPPED
                dropped.append(later)
        return dropped

    def having(self, *states: State) -> list[str]:
        """The stages in one of these states, in order."""
        return [name for name in self.order if self.states[name] in states]

    def _is_free(self, name: str) -> bool:
        return all(self._has_ended(needed) for needed in self._upstream[name])

    def _has_ended(self, name: str) -> bool:
        return self.states[name] in (State.FRESH, State.DONE)


def _to_the_end(order: Sequence[str], upstream: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """How many stages come after each one at least, one after the other."""
    lengths = dict.fromkeys(order, 0)
    for name in reversed(order):
        for earlier in upstream[name]:
            lengths[earlier] = max(lengths[earlier], lengths[name] + 1)
    return lengths
