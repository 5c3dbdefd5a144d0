"""Scripts in two processes on the CPU, as `accelerate launch` starts them on several GPUs, or on two machines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch

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


def run_in_two_processes(script: Path, *arguments: object, module: bool = False) -> str:
    """The output of the two processes; fails with it if one of them fails."""
    # port 0: a free one
    return _launched(["--num_machines 1 --main_process_port 0"], script, arguments, module)


def run_on_two_machines(script: Path, *arguments: object, module: bool = False) -> str:
    """The output of the first of two processes that are launched apart, as on two machines; both are this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = f"--num_machines 2 --main_process_ip 127.0.0.1 --main_process_port {port} --machine_rank "
    return _launched([place + "0", place + "1"], script, arguments, module)


def _launched(each: Sequence[str], script: Path, arguments: Sequence[object], module: bool) -> str:
    """The output of the first launcher's processes. No process outlives this, even if they do not find each other."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("torch was built without gloo, so two processes on a CPU cannot talk")
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
            codes = [process.wait(timeout=300) for process in processes]
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
