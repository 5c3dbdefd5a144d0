"""Start worker processes that have imported torch before they begin.

They are forked from a server that has imported torch and the other modules once. Forking this process instead could
copy a lock that a thread holds, and spawning would import everything again in each worker. The server never touches a
GPU, so each worker can be given its own. It is this process's own server, or one that several stages share
(shared_server.py).
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import select
import signal
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import kdcache
from kdcache.system.preloading import uncollected

SHARED = "KDCACHE_WORKER_SERVER"  # variable: the socket of the server that this process shares with others
# A trial imports these: the last two when it reads its first rows and its tokenizer. That takes a second.
PRELOAD = ("kdcache.trials.run", "pandas", "transformers.convert_slow_tokenizer")
PATIENCE = 10  # seconds in which a process has to end by itself

Target = Callable[..., None]


@dataclass(frozen=True)
class Order:
    """What a shared server needs to start a process as if the asking process had started it.

    call: the function to call and its arguments after the pipe, pickled, since only the new process can import them.
    sources: see `state_of_sources`.
    """

    call: bytes
    folder: str
    path: tuple[str, ...]
    sources: str


@dataclass(frozen=True)
class Ended:
    """The last message of a shared server in a pipe: the process at its other end has ended, and how."""

    how: str


class Started(ABC):
    """A started process and our end of the pipe to it."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self._ended: Ended | None = None

    def send(self, message: object) -> bool:
        """Send a message to a process that waits for one. Return False if the process has ended."""
        try:
            if self.pipe.poll():  # it says nothing while it waits: this is its end
                return False
            self.pipe.send(message)
        except OSError:
            return False
        return True

    def receive(self) -> Any:
        """The next message.

        Raises:
            EOFError: the process has ended.
        """
        try:
            message = self.pipe.recv()
        except OSError:  # the other end was closed before it was read to its end
            raise EOFError from None
        if isinstance(message, Ended):
            self._ended = message
            raise EOFError
        return message

    @abstractmethod
    def terminate(self) -> None:
        """Have the process end now."""

    @abstractmethod
    def end(self) -> str:
        """Close the pipe, wait until the process has ended, and say how it ended."""


class _Own(Started):
    """A process of this process's own server."""

    def __init__(self, pipe: Connection, process: ForkServerProcess) -> None:
        super().__init__(pipe)
        self._process = process

    def terminate(self) -> None:
        self._process.terminate()
        self.pipe.close()

    def end(self) -> str:
        self.pipe.close()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return ending(self._process.exitcode or 0)


class _Shared(Started):
    """A process of a shared server. It ends when our end of the pipe is closed."""

    def __init__(self, pipe: Connection, pid: int) -> None:
        super().__init__(pipe)
        self._pid = pid

    def terminate(self) -> None:
        if not self.pipe.closed:
            with socket.socket(fileno=os.dup(self.pipe.fileno())) as end:
                end.shutdown(socket.SHUT_WR)  # the server still says here when the process has ended

    def end(self) -> str:
        with suppress(EOFError, OSError):
            self.terminate()
            self._wait()
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._wait()
        self.pipe.close()
        return self._ended.how if self._ended else "nothing is known of its end"

    def _wait(self) -> None:
        """Wait for the end, which is an EOFError, for as long as the process has."""
        while self.pipe.poll(PATIENCE):
            self.receive()  # an outcome that nobody waits for any more, or the end


def start(target: Target, args: tuple[Any, ...], modules: Sequence[str] = ()) -> Started:
    """Start a process that calls `target(pipe, *args)`.

    Args:
        modules: what this process's own server imports in addition to `PRELOAD`, if it is not running yet.
    """
    return _start_shared(target, args) or _start_own(target, args, modules)


def own_server(modules: Sequence[str] = ()) -> ForkServerContext:
    """This process's own server. It is started if necessary, without waiting for its imports.

    The server ignores a module that does not exist. The worker that needs it reports it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(uncollected([*PRELOAD, *modules]))
    forkserver.ensure_running()
    return context


def prepare(modules: Sequence[str]) -> None:
    """Let the imports begin, so that they go on while this process prepares its work."""
    if SHARED not in os.environ:
        own_server(modules)


def state_of_sources() -> str:
    """A hash of the names, sizes and times of kdcache's source files: the same as long as nobody edits them."""
    states = ((file, file.stat()) for file in sorted(Path(kdcache.__file__).parent.rglob("*.py")))
    text = "\n".join(f"{file} {state.st_size} {state.st_mtime_ns}" for file, state in states)
    return hashlib.sha256(text.encode()).hexdigest()


def ending(code: int) -> str:
    """How a process with this exit code ended."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def end_with(pipe: Connection) -> None:
    """End this process when the other end of the pipe is closed, whatever it is doing.

    The process at the other end held a lock on the folders that this one writes into. That lock is gone now.
    """
    threading.Thread(target=_end_with, args=(pipe.fileno(),), daemon=True).start()


def _end_with(descriptor: int) -> None:
    hung_up = select.poll()
    hung_up.register(descriptor, getattr(select, "POLLRDHUP", select.POLLHUP))  # the first is Linux's alone
    hung_up.poll()
    os._exit(1)


def _start_own(target: Target, args: tuple[Any, ...], modules: Sequence[str]) -> Started:
    ours, theirs = multiprocessing.Pipe()
    process = own_server(modules).Process(target=target, args=(theirs, *args))
    process.start()
    theirs.close()
    return _Own(ours, process)


def _start_shared(target: Target, args: tuple[Any, ...]) -> Started | None:
    """A process of the shared server; None if there is none, or it has imported other code than this process."""
    address = os.environ.get(SHARED)
    if address is None:
        return None
    end = socket.socket(socket.AF_UNIX)
    try:
        end.connect(address)
    except OSError:  # it has ended with the run that started it
        end.close()
        return None
    pipe = Connection(end.detach())
    try:
        call = pickle.dumps((target, args))
        pipe.send(Order(call, os.getcwd(), tuple(sys.path), state_of_sources()))
        pid = pipe.recv()  # from the new process; None from a server that refuses
    except (EOFError, OSError):
        pid = None
    if not isinstance(pid, int):
        pipe.close()
        return None
    return _Shared(pipe, pid)
