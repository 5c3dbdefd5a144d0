"""The state of a running training, on disk, so that a training that is killed need not begin again.

It lies in `.kdcache/training/<identity>/` of the project, outside of what DVC and the store keep. It is removed when
the training's result is written. A state is one file: the tensors as safetensors, the rest in the header, and a
checksum. It says which training it belongs to and how that was run. No other training takes it. So the result is that
of an uninterrupted training, bit for bit.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kdcache.errors import KdcacheError, TrialError
from kdcache.hashing import fingerprint
from kdcache.system import processes
from kdcache.system.devices import device_name, machine
from kdcache.system.files import TEMPORARY_SUFFIX, write_atomically
from kdcache.system.locks import FolderLock
from kdcache.system.versions import ADAPTERS, LEARNING, installed
from kdcache.training.state import State
from kdcache.trials.layout import own_folder

log = logging.getLogger(__name__)

EVERY = "KDCACHE_STATE_MINUTES"  # how often a state is kept; "off": never
DEFAULT_MINUTES = 5.0
FILE = "state.safetensors"
UNUSED_DAYS = 14  # a state is removed if nobody continued from it for so long
ASKED = 20  # number of steps after which the processes agree again whether it is time
HEADER = "state"


class KeptState:
    """The place where one training's state is kept. `is_due` says when to keep one.

    Args:
        identity: the training's identity.
        minutes: the time between two states; None: none is kept or taken.
    """

    def __init__(self, identity: str, minutes: float | None) -> None:
        self.identity, self.minutes = identity, minutes
        self.folder = own_folder() / "training" / identity
        self._lock = FolderLock(self.folder)
        self._last, self._steps, self._held = time.monotonic(), 0, False

    def read(self) -> State | None:
        """The state that an interrupted training left, or None. Each process reads it, and the main one decides."""
        if self.minutes is None:
            return None
        return self._load() if processes.from_main(self._usable) else None

    def is_due(self) -> bool:
        """Whether it is time to keep a state; the same in every process. To be asked once after each step."""
        self._steps += 1
        if self.minutes is None:
            return False
        if processes.count() == 1:
            return self._is_time()
        return self._steps % ASKED == 0 and processes.from_main(self._is_time)

    def write(self, state: State) -> None:
        """Keep the state in place of the one before. If that fails, the training goes on without it."""
        if processes.is_main() and self._hold():
            try:
                write_atomically(self.folder / FILE, lambda path: self._save(state, path))
            except (KdcacheError, SafetensorError) as error:
                log.warning("the state of the training is not kept: %s", error)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove the state: the training is over, and its result is written."""
        if processes.is_main() and self._held:
            shutil.rmtree(self.folder, ignore_errors=True)

    def release(self) -> None:
        """Let other processes have the state."""
        self._lock.release()
        self._held = False

    def _is_time(self) -> bool:
        assert self.minutes is not None
        return time.monotonic() - self._last >= 60 * self.minutes

    def _hold(self) -> bool:
        """Whether only this process writes here: the same training may also run in a copy of the project."""
        try:
            if not self._held:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._held = self._lock.acquire()
                for part in self.folder.glob(f".*{TEMPORARY_SUFFIX}") if self._held else ():
                    part.unlink()  # a process was killed while it wrote this state
        except OSError as error:
            log.warning("%s: the state of the training is not kept: %s", self.folder, error.strerror or error)
        return self._held

    def _usable(self) -> bool:
        """Whether there is a whole state of this training, run as it is now. Others stay until they are replaced."""
        _clear_unused(self.folder.parent)
        if not (self.folder / FILE).is_file() or not self._hold():
            return False
        try:
            reason = self._why_not(self._load())
        except Exception as error:  # a damaged or edited file can raise almost anything
            reason = f"it is damaged ({str(error)[:200] or type(error).__name__})"
        if reason is not None:
            log.warning(
                "%s: the state of an interrupted training is not used, the training begins again: %s",
                self.folder,
                reason,
            )
        return reason is None

    def _why_not(self, state: State) -> str | None:
        kept, now = state.rest["of"], self._origin()
        different = [f"{key} was {kept.get(key)}, is {now[key]}" for key in now if kept.get(key) != now[key]]
        if different:
            return f"the last bits could differ, since {'; '.join(different)}"
        return None if state.rest["checksum"] == _checksum(state) else "it is damaged"

    def _origin(self) -> dict[str, Any]:
        """Which training this is, and everything else that can change the last bits of its numbers."""
        device = PartialState().device
        cpu = {"cpu": machine(torch.get_num_threads())} if device.type == "cpu" else {}
        run = {
            "device": device_name(device),
            "processes": processes.count(),
            "versions": installed((*LEARNING, ADAPTERS)),
        }
        return {"identity": self.identity, **run, **cpu}

    def _save(self, state: State, path: Path) -> None:
        tensors = {name: value.cpu().contiguous() for name, value in state.tensors.items()}
        rest = {**state.rest, "of": self._origin()}
        rest["checksum"] = _checksum(State(tensors, rest))
        save_file(tensors, path, {HEADER: json.dumps(rest)})

    def _load(self) -> State:
        with safe_open(self.folder / FILE, framework="pt") as file:
            rest = json.loads(file.metadata()[HEADER])
            return State({name: file.get_tensor(name) for name in file.keys()}, rest)  # noqa: SIM118


def _checksum(state: State) -> str:
    rest = {key: value for key, value in state.rest.items() if key != "checksum"}
    return fingerprint.of_value([rest, state.tensors])


def minutes() -> float | None:
    """How often a state is kept, as the environment says; None: never.

    Raises:
        TrialError: KDCACHE_STATE_MINUTES is neither `off` nor a number of at least 0.
    """
    text = os.environ.get(EVERY)
    if text == "off":
        return None
    try:
        value = DEFAULT_MINUTES if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise TrialError(f"{EVERY} must be a number of minutes from 0, or off, found {text!r}")
    return value


def _clear_unused(folder: Path) -> None:
    """Remove the states of trainings that nobody asks for any more."""
    for file in folder.glob(f"*/{FILE}"):
        lock = FolderLock(file.parent)
        try:
            if time.time() - file.stat().st_mtime > 86400 * UNUSED_DAYS and lock.acquire():
                shutil.rmtree(file.parent, ignore_errors=True)
        except OSError:  # another process has just removed it
            continue
        finally:
            lock.release()
