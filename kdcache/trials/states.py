"""The state of a training that is under way, on disk, so that one that is killed need not begin again.

It lies in `.kdcache/training/<identity>/` of the project, outside what DVC and the store keep, and goes when the
training's result is written. A state is one file: tensors as safetensors, the rest in its header, and a checksum. It
says of which training it is and how that was run, and no other takes it: what comes out is what an uninterrupted
training gives, bit for bit.
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
UNUSED_DAYS = 14  # a state that nobody went on from for so long goes
ASKED = 20  # of so many steps each, several processes agree whether it is time
HEADER = "state"


class KeptState:
    """Where one training's state is kept; `is_due` says when it is time.

    Args:
        identity: the training's.
        minutes: from one state to the next; None: none is kept, nor taken.
    """

    def __init__(self, identity: str, minutes: float | None) -> None:
        self.identity, self.minutes = identity, minutes
        self.folder = own_folder() / "training" / identity
        self._lock = FolderLock(self.folder)
        self._last, self._steps, self._held = time.monotonic(), 0, False

    def read(self) -> State | None:
        """The state that an interrupted training left, or None; each process reads it, the main one decides."""
        if self.minutes is None:
            return None
        return self._load() if processes.from_main(self._usable) else None

    def is_due(self) -> bool:
        """Whether it is time, in every process; asked once after each step."""
        self._steps += 1
        if self.minutes is None:
            return False
        if processes.count() == 1:
            return self._is_time()
        return self._steps % ASKED == 0 and processes.from_main(self._is_time)

    def write(self, state: State) -> None:
        """Keep the state in place of the one before. When that cannot be done the training goes on without."""
        if processes.is_main() and self._hold():
            try:
                write_atomically(self.folder / FILE, lambda path: self._save(state, path))
            except (KdcacheError, SafetensorError) as error:
                log.warning("the state of the training is not kept: %s", error)
        self._last = time.monotonic()

    def remove(self) -> None:
        """The training is over, its result written."""
        if processes.is_main() and self._held:
            shutil.rmtree(self.folder, ignore_errors=True)

    def release(self) -> None:
        """Let others have it."""
        self._lock.release()
        self._held = False

    def _is_time(self) -> bool:
        assert self.minutes is not None
        return time.monotonic() - self._last >= 60 * self.minutes

    def _hold(self) -> bool:
        """Whether this process alone writes here: the same training may run elsewhere, in a copy of the project."""
        try:
            if not self._held:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._held = self._lock.acquire()
                for part in self.folder.glob(f".*{TEMPORARY_SUFFIX}") if self._held else ():
                    part.unlink()  # of a state that was being written when its process was killed
        except OSError as error:
            log.warning("%s: the state of the training is not kept: %s", self.folder, error.strerror or error)
        return self._held

    def _usable(self) -> bool:
        """Whether there is a state, whole, of this training, run as it is now. Any other stays until it is replaced."""
        _clear_unused(self.folder.parent)
        if not (self.folder / FILE).is_file() or not self._hold():
            return False
        try:
            reason = self._why_not(self._load())
        except Exception as error:  # a damaged or edited file can make almost anything fail
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
        """Which training, and everything else that the last bits of its numbers may depend on."""
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
    """How often a state is kept, by the environment; None: never.

    Raises:
        TrialError: KDCACHE_STATE_MINUTES is neither `off` nor a number from 0.
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
    """Remove what was left by trainings that are not asked for any more."""
    for file in folder.glob(f"*/{FILE}"):
        lock = FolderLock(file.parent)
        try:
            if time.time() - file.stat().st_mtime > 86400 * UNUSED_DAYS and lock.acquire():
                shutil.rmtree(file.parent, ignore_errors=True)
        except OSError:  # another process has just removed it
            continue
        finally:
            lock.release()
