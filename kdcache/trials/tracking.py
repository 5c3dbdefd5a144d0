"""Show a training in TensorBoard, trackio, W&B, MLflow and others, by Accelerate's trackers. KDCACHE_TRACK names them.

The trackers are told the settings at the start, the loss of each epoch, and the scores at the end. They never change a
result. A tracker that fails during training is left out. Trackers that write to a folder have `.kdcache/tracking`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from kdcache.errors import TrialError
from kdcache.system import processes
from kdcache.training.watching import Epoch
from kdcache.trials.layout import own_folder

log = logging.getLogger(__name__)

TRACK = "KDCACHE_TRACK"
FOLDER = "tracking"
PROJECT = "kdcache"
RUN_KEY = {"mlflow": "run_name", "trackio": "name", "wandb": "name"}  # how a tracker is told a run's name


def asked_trackers() -> list[str]:
    """The trackers that the environment names.

    Raises:
        TrialError: Accelerate does not know one of them, or one is not installed.
    """
    names = [name.strip() for name in os.environ.get(TRACK, "").split(",") if name.strip()]
    installed = sorted({str(name) for name in get_available_trackers()} & set(LOGGER_TYPE_TO_CLASS))
    for name in names:
        if name not in installed:
            known = ", ".join(LOGGER_TYPE_TO_CLASS)
            state = (
                "is not installed"
                if name in LOGGER_TYPE_TO_CLASS
                else f"is no tracker of Accelerate ({known})"
            )
            raise TrialError(f"{TRACK}: {name!r} {state}; installed are: {', '.join(installed) or 'none'}")
    return names


class Tracking:
    """One training's trackers, in the main process; there are none if the environment names none.

    Args:
        name: the training's name, such as "digits / vit / base / seed 0"; its run is then called
            digits/vit/base/seed-0-<identity>.
        settings: the training's settings: numbers, texts and None, and lists and mappings of these.

    Raises:
        TrialError: as in `asked_trackers`, or a tracker cannot be started.
    """

    def __init__(self, name: str, identity: str, settings: Mapping[str, Any]) -> None:
        run = f"{name.replace(' / ', '/').replace(' ', '-')}-{identity[:8]}"
        self._trackers = (
            [_started(tracker, run) for tracker in asked_trackers()] if processes.is_main() else []
        )
        self._epochs = 0
        if self._trackers:
            flat = _flat(settings)
            self._each(lambda tracker: tracker.store_init_configuration(flat))

    def epoch(self, epoch: Epoch) -> None:
        """Report an epoch's loss, seconds and rows a second, at the epoch's number."""
        self._epochs = epoch.number
        speed = epoch.rows / epoch.seconds if epoch.seconds else 0.0
        values = {"loss": epoch.loss, "seconds": epoch.seconds, "rows_per_second": speed}
        self._each(lambda tracker: tracker.log(values, step=epoch.number))

    def scores(self, scores: Callable[[], Mapping[str, float]]) -> None:
        """Report the trained model's scores, at the last epoch. They are computed only if there is a tracker."""
        if self._trackers:
            values = {f"score/{name}": value for name, value in scores().items()}
            self._each(lambda tracker: tracker.log(values, step=self._epochs))

    def close(self) -> None:
        self._each(lambda tracker: tracker.finish())

    def _each(self, tell: Callable[[GeneralTracker], Any]) -> None:
        for tracker in list(self._trackers):
            try:
                tell(tracker)
            except Exception as error:  # a tracker may raise anything, and that must not end the training
                log.warning("%s is left out from now on: %s: %s", tracker.name, type(error).__name__, error)
                self._trackers.remove(tracker)


def _started(name: str, run: str) -> GeneralTracker:
    kind = LOGGER_TYPE_TO_CLASS[name]
    processes.device()  # Accelerate's trackers ask it which process this is
    try:
        if kind.requires_logging_directory:  # it gets a folder for each run
            tracker = kind(run, own_folder() / FOLDER)
        else:
            tracker = kind(PROJECT, **({RUN_KEY[name]: run} if name in RUN_KEY else {}))
        tracker.start()
    except Exception as error:
        raise TrialError(f"{TRACK}: {name} cannot be started: {type(error).__name__}: {error}") from error
    return tracker


def _flat(settings: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """{"student": {"epochs": 2}} as {"student.epochs": 2}. Lists become text, and None is left out."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{start}{key}."))
        elif value is not None:
            flat[f"{start}{key}"] = value if isinstance(value, str | int | float) else str(value)
    return flat
