"""Scripts in two processes on the CPU, as `accelerate launch` starts them on several GPUs, or on two machines.

The launcher takes seconds to start, and then each process imports torch. Where launching is not what a test is about,
`run_side_by_side` starts the same two processes with the variables that the launcher would set.
"""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from tests.forked import forked

ROOT = Path(__file__).parents[1]
# Without --multi_gpu the launcher starts several processes on a CPU through MPI only; the variable below keeps them off
# any GPU.
LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_processes 2 --mixed_precision no --dynamo_backend no"
)
VARIABLES = {
    "ACCELERATE_USE_CPU": "true",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
PATIENCE = 300  # seconds


def run_side_by_side(script: Path, *arguments: object, module: bool = False) -> None:
    """Run two processes that have imported torch; fails with their output if one of them fails."""
    _skip_without_gloo()
    place = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    command = [str(script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(rank)) for rank in (0, 1)]
        processes = []
        for rank, output in enumerate(outputs):
            environment = {**os.environ, **VARIABLES, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            whole = (environment, os.getcwd(), output, command, module)
            processes.append(forked().Process(target=_work, args=whole))
            processes[-1].start()
        codes = _codes(processes)
        said = "\n".join(output.read_text()[-4000:] for output in outputs if output.exists())
        assert codes == [0, 0], f"{codes}\n{said}"


def _codes(processes: Sequence[BaseProcess]) -> list[int | None]:
    """The processes' exit codes; None for one that did not end in time. None of them outlives this."""
    until = time.monotonic() + PATIENCE
    try:
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _work(
    environment: Mapping[str, str], folder: str, output: Path, command: list[str], module: bool
) -> None:
    """In a new process: be one that the launcher has started."""
    with output.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.argv = command
    try:
        if module:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # they leave the group of processes; a forked process ends without them


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _skip_without_gloo() -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("torch was built without gloo, so two processes on a CPU cannot talk")


def run_in_two_processes(script: Path, *arguments: object, module: bool = False) -> str:
    """The output of the two processes; fails with it if one of them fails."""
    # port 0: a free one
    return _launched(["--num_machines 1 --main_process_port 0"], script, arguments, module)


def run_on_two_machines(script: Path, *arguments: object, module: bool = False) -> str:
    """The output of the first of two processes that are launched apart, as on two machines; both are this one."""
    place = f"--num_machines 2 --main_process_ip 127.0.0.1 --main_process_port {free_port()} --machine_rank "
    return _launched([place + "0", place + "1"], script, arguments, module)


def _launched(each: Sequence[str], script: Path, arguments: Sequence[object], module: bool) -> str:
    """The output of the first launcher's processes. No process outlives this, even if they do not find each other."""
    _skip_without_gloo()
    what = [*["--module"] * module, str(script), *map(str, arguments)]
    processes, codes = [], []
    with tempfile.TemporaryDirectory() as folder:
        outputs, errors = (
            [Path(folder, f"{kind}-{rank}") for rank in range(len(each))] for kind in ("out", "err")
        )
        try:
            for options, output, error in zip(each, outputs, errors, strict=True):
                with output.open("w") as out, error.open("w") as err:
                    started = subprocess.Popen(
                        [sys.executable, *LAUNCH.split(), *options.split(), *what],
                        env={**os.environ, **VARIABLES},
                        stdout=out,
                        stderr=err,
                        start_new_session=True,
                    )
                processes.append(started)
            codes = [process.wait(timeout=PATIENCE) for process in processes]
        except subprocess.TimeoutExpired as expired:
            codes = [str(expired)]
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said = "\n".join(error.read_text()[-4000:] for error in errors)
        assert codes == [0] * len(each), f"{codes}\n{said}"
        return outputs[0].read_text()
