"""A server of worker processes that all stages of one `kdcache repro` share: torch is imported once, not by each stage.

It is a process of its own, which ends with the run. A stage connects to its socket and says what to start; the
connection becomes the pipe to the new process. The server refuses if kdcache's sources have changed since it imported
them: a stage would then name a trial after the new code, and the old code would train it. The stage starts a server of
its own then.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from kdcache.engine.forking import PATIENCE, SHARED, Ended, Order, ending, own_server, state_of_sources


class SharedServer:
    """The server, seen from the run that its stages belong to. It runs from the first `start` to the end of `with`."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._variables: dict[str, str] | None = None

    def __enter__(self) -> SharedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
        self._variables = None

    def start(self, modules: Sequence[str] = ()) -> dict[str, str]:
        """Start the server if it does not run yet; returns the variables with which stages find it.

        There are none if the path of the folder for temporary files is too long for a socket. Each stage then starts a
        server of its own.

        Args:
            modules: what the server imports at once, in addition to what every trial needs.
        """
        if self._variables is None:
            try:
                self._variables = {SHARED: self._held.enter_context(_running(modules))}
            except OSError:
                self._variables = {}
        return self._variables


@contextmanager
def _running(modules: Sequence[str]) -> Iterator[str]:
    """Run a server process; yields the address of its socket."""
    with tempfile.TemporaryDirectory(prefix="kdcache-") as folder, socket.socket(socket.AF_UNIX) as listening:
        address = str(Path(folder) / "socket")  # the folder is for this user only
        listening.bind(address)
        listening.listen(128)
        command = [sys.executable, "-m", "kdcache.engine.shared_server", str(listening.fileno()), *modules]
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C reaches the stages, and these end their workers
        )
        listening.close()
        try:
            yield address
        finally:
            assert server.stdin is not None
            server.stdin.close()
            try:
                server.wait(2 * PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


class _Server:
    """The server's side: its socket, and the processes that it has started, by what tells of their end."""

    def __init__(self, listening: socket.socket, modules: Sequence[str]) -> None:
        self._listening, self._modules = listening, modules
        self._sources = state_of_sources()  # as they are imported now
        own_server(modules)
        self._started: dict[int, tuple[ForkServerProcess, Connection]] = {}

    def serve(self, until: int) -> None:
        """Start what is ordered and tell of what has ended, until the other end of `until` is closed."""
        while True:
            ready = wait([self._listening, until, *self._started])
            for sentinel in [sentinel for sentinel in self._started if sentinel in ready]:
                self._tell(*self._started.pop(sentinel))
            if until in ready:
                return
            if self._listening in ready:
                accepted, _ = self._listening.accept()
                self._answer(Connection(accepted.detach()))

    def close(self) -> None:
        """End the processes that are left. Their stages have ended."""
        for process, _ in self._started.values():
            process.kill()
        for process, pipe in self._started.values():
            self._tell(process, pipe)

    def _answer(self, pipe: Connection) -> None:
        """Take an order and carry it out, if what it asks for has the code that was imported here."""
        with suppress(EOFError, OSError):  # the stage has ended
            order = pipe.recv()
            if isinstance(order, Order) and order.sources == self._sources:
                self._start(order, pipe)
                return
            pipe.send(None)
        pipe.close()

    def _start(self, order: Order, pipe: Connection) -> None:
        arguments = (pipe, order.call, order.folder, order.path)
        process = own_server(self._modules).Process(target=_run, args=arguments)
        process.start()
        self._started[process.sentinel] = process, pipe

    @staticmethod
    def _tell(process: ForkServerProcess, pipe: Connection) -> None:
        process.join()
        with suppress(OSError):  # the stage has ended
            pipe.send(Ended(ending(process.exitcode or 0)))
        pipe.close()


def _run(pipe: Connection, call: bytes, folder: str, path: tuple[str, ...]) -> None:
    """In the new process: be where the stage is, and find modules where it finds them."""
    os.chdir(folder)
    sys.path[:] = path
    pipe.send(os.getpid())
    target, args = pickle.loads(call)
    target(pipe, *args)


def main(arguments: Sequence[str]) -> None:
    descriptor, *modules = arguments
    with socket.socket(fileno=int(descriptor)) as listening:
        server = _Server(listening, modules)
        try:
            server.serve(sys.stdin.fileno())
        finally:
            server.close()


if __name__ == "__main__":
    main(sys.argv[1:])
