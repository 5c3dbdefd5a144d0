"""The processes of an `accelerate launch` as a stage sees them: the main one decides and writes, the others follow.

Without a launcher there is one process, and nothing here imports torch.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from kdcache.errors import KdcacheError

if TYPE_CHECKING:
    from accelerate import PartialState


T = TypeVar("T")


def count() -> int:
    """How many processes work on this stage together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them, from 0; the main process is 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that takes the lock, decides what is missing and writes."""
    return rank() == 0


def from_main(decide: Callable[[], T]) -> T:
    """Call `decide` in the main process only, and return its result in every process.

    Deciding can delete files (`keeping.missing_trials`), and every process has to train the same trials in the same
    order. So one process decides, and the others wait for its result. If `decide` fails, the main process raises its
    error and the others end quietly.

    Raises:
        KdcacheError: Accelerate does not connect the processes: each would train alone, and write.
    """
    if count() == 1:
        return decide()
    from accelerate.utils import broadcast_object_list

    _connect()
    outcome: list[Any] = [False, None]
    try:
        if is_main():
            outcome = [True, decide()]
    finally:
        broadcast_object_list(outcome)
    if not outcome[0]:
        raise SystemExit(1)
    return outcome[1]  # type: ignore[no-any-return]


def gathered(values: list[T]) -> list[T]:
    """The values of all processes, in the order of their ranks, in every process."""
    if count() == 1:
        return values
    from accelerate.utils import gather_object

    _connect()
    return gather_object(values)  # type: ignore[no-any-return]


def wait() -> None:
    """Wait until every process has called this."""
    if count() > 1:
        _connect().wait_for_everyone()


def device() -> Any:
    """This process's device (a torch.device), as Accelerate gives it."""
    return _connect().device


def _connect() -> PartialState:
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.num_processes != count():
        raise KdcacheError(
            f"WORLD_SIZE is {count()}, but Accelerate connects {state.num_processes} processes; start them with "
            "`accelerate launch` (on CPUs: `torchrun`, with ACCELERATE_USE_CPU=true), or unset WORLD_SIZE"
        )
    _leave_in_the_end()
    return state


@functools.cache
def _leave_in_the_end() -> None:
    """Leave the group of processes when this one ends; otherwise one that ends early can take the others down."""
    from accelerate import PartialState

    atexit.register(lambda: PartialState().destroy_process_group())
