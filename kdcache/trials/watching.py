"""What watches a training: lines for epochs, a bar on a terminal, trackers, and its state on disk."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kdcache.system import processes
from kdcache.training.state import State
from kdcache.training.watching import Epoch, Watch
from kdcache.trials.states import KeptState, minutes
from kdcache.trials.tracking import Tracking

log = logging.getLogger(__name__)


class TrainingWatch(Watch):
    """Shows one training, and keeps its state.

    Args:
        name: the training's name, for people.
    """

    def __init__(self, name: str, kept: KeptState, tracking: Tracking) -> None:
        self._name, self._kept, self._tracking = name, kept, tracking
        self._bar: tqdm[Any] | None = None

    def state(self) -> State | None:
        state = self._kept.read()
        if state is not None:
            log.info("%s: goes on after step %d, where it was interrupted", self._name, state.rest["steps"])
        return state

    def begins(self, steps: int, done: int) -> None:
        if shows_bar():
            self._bar = tqdm(total=steps, initial=done, desc=self._name, unit="step", leave=False)

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def wants_state(self) -> bool:
        return self._kept.is_due()

    def keep(self, state: State) -> None:
        self._kept.write(state)

    def epoch(self, epoch: Epoch) -> None:
        speed = epoch.rows / epoch.seconds if epoch.seconds else 0.0
        message = "%s: epoch %d/%d: loss %.4f, %.1f s, %.0f rows/s"
        log.info(message, self._name, epoch.number, epoch.of, epoch.loss, epoch.seconds, speed)
        self._tracking.epoch(epoch)

    def scores(self, scores: Callable[[], Mapping[str, float]]) -> None:
        """Report the trained model's scores. They are computed only if a tracker wants them."""
        self._tracking.scores(scores)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._tracking.close()


@contextmanager
def watched(name: str, identity: str, settings: Mapping[str, Any]) -> Iterator[TrainingWatch]:
    """Train and write the result inside this context. If it ends well, the kept state is removed.

    Args:
        settings: the training's settings, for trackers.

    Raises:
        TrialError: KDCACHE_STATE_MINUTES or KDCACHE_TRACK is not valid, or a tracker cannot be started.
    """
    kept = KeptState(identity, minutes())
    watch = TrainingWatch(name, kept, Tracking(name, identity, settings))
    with ExitStack() as ending:
        ending.callback(kept.release)
        ending.callback(watch.close)
        if shows_bar():
            ending.enter_context(logging_redirect_tqdm())
        yield watch
        kept.remove()


def shows_bar() -> bool:
    """Whether to show a bar: only on a terminal. Several processes or workers show none; their bars would mix."""
    alone = processes.is_main() and multiprocessing.parent_process() is None
    return alone and sys.stderr.isatty()
