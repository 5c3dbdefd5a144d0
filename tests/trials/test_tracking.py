"""Trackers: TensorBoard and trackio for real, and a tracker of our own where one is to fail."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking as accelerate_tracking

from kdcache.errors import TrialError
from kdcache.training.watching import Epoch
from kdcache.trials import tracking
from kdcache.trials.tracking import TRACK, Tracking, asked_trackers

SETTINGS = {"student": {"epochs": 2, "lora": None, "tasks": ["a", "b"]}, "regularizer": {"alpha": 0.5}}
NAME, IDENTITY = "digits / vit / base / seed 0", "0123456789abcdef"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TRACK, raising=False)
    return tmp_path


def follow() -> None:
    """A training of two epochs."""
    tracker = Tracking(NAME, IDENTITY, SETTINGS)
    tracker.epoch(Epoch(1, 2, 0.75, 500, 2.0))
    tracker.epoch(Epoch(2, 2, 0.5, 500, 2.5))
    tracker.scores(lambda: {"accuracy": 0.875})
    tracker.close()


def test_tensorboard_has_the_losses_and_the_scores(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv(TRACK, " tensorboard ,")
    follow()
    run = project / ".kdcache" / "tracking" / "digits" / "vit" / "base" / "seed-0-01234567"
    events = EventAccumulator(str(run)).Reload()
    found = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {
        "loss": [(1, 0.75), (2, 0.5)],
        "seconds": [(1, 2.0), (2, 2.5)],
        "rows_per_second": [(1, 250.0), (2, 200.0)],
        "score/accuracy": [(2, 0.875)],
    }
    (settings,) = run.glob("*/hparams.yml")
    assert (
        settings.read_text() == "regularizer.alpha: 0.5\nstudent.epochs: 2\nstudent.tasks: '[''a'', ''b'']'\n"
    )


def test_trackio_has_them_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs older versions of Pillow and httpx than constraints.txt pins, so an environment of its own."""
    monkeypatch.setenv("TRACKIO_DIR", str(project / "trackio"))
    trackio = pytest.importorskip("trackio")
    monkeypatch.setenv(TRACK, "trackio")
    follow()
    logs = trackio.SQLiteStorage.get_logs("kdcache", "digits/vit/base/seed-0-01234567")
    kept = ("loss", "seconds", "rows_per_second", "score/accuracy")
    assert [{name: one[name] for name in ("step", *kept) if name in one} for one in logs] == [
        {"step": 1, "loss": 0.75, "seconds": 2.0, "rows_per_second": 250.0},
        {"step": 2, "loss": 0.5, "seconds": 2.5, "rows_per_second": 200.0},
        {"step": 2, "score/accuracy": 0.875},
    ]
    (run,) = trackio.Api().runs("kdcache")
    assert {"student.epochs": 2, "regularizer.alpha": 0.5}.items() <= run.config.items()


def test_nothing_is_tracked_without_being_asked_for(project: Path) -> None:
    tracker = Tracking(NAME, IDENTITY, SETTINGS)
    tracker.epoch(Epoch(1, 1, 0.75, 500, 2.0))
    tracker.scores(lambda: pytest.fail("nobody wants to know"))
    tracker.close()
    assert list(project.iterdir()) == []


def test_a_tracker_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    monkeypatch.setenv(TRACK, "wandb,tensorbord")
    with pytest.raises(TrialError, match=r"'tensorbord' is no tracker of Accelerate .*installed are: wandb"):
        asked_trackers()
    monkeypatch.setenv(TRACK, "tensorboard")
    with pytest.raises(TrialError, match="'tensorboard' is not installed; installed are: wandb"):
        asked_trackers()


class Faulty(accelerate_tracking.GeneralTracker):
    name = "wandb"
    requires_logging_directory = False
    seen: list[Any] = []  # noqa: RUF012

    def __init__(self, project: str, **settings: Any) -> None:
        super().__init__()
        self.seen.append((project, settings))

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        self.seen.append("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.seen.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.seen.append(step)
        raise ConnectionError("no network")


def test_one_that_fails_is_left_out_and_the_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Faulty)
    monkeypatch.setenv(TRACK, "wandb")
    with caplog.at_level(logging.WARNING):
        follow()
    assert Faulty.seen == [
        ("kdcache", {"name": "digits/vit/base/seed-0-01234567"}),
        "start",
        {"student.epochs": 2, "student.tasks": "['a', 'b']", "regularizer.alpha": 0.5},
        1,
    ]
    assert caplog.messages == ["wandb is left out from now on: ConnectionError: no network"]


def test_one_that_cannot_be_started_is_an_error_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: Faulty) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Faulty)
    monkeypatch.setattr(Faulty, "start", refuse)
    monkeypatch.setenv(TRACK, "wandb")
    with pytest.raises(TrialError, match="wandb cannot be started: ConnectionError: no network"):
        Tracking(NAME, IDENTITY, SETTINGS)
