"""Scripts in two processes on the CPU, as `accelerate launch` starts them on several GPUs, or on two machines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
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
    """What the two processes print; fails with what they say when one of them does."""
    return _output(
        _launched("--num_machines 1 --main_process_port 0", script, arguments, module)
    )  # a free port


def run_on_two_machines(script: Path, *arguments: object, module: bool = False) -> str:
    """One process on each, the two launched apart: what the first prints. Both machines are this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = f"--num_machines 2 --main_process_ip 127.0.0.1 --main_process_port {port} --machine_rank "
    first, second = (_launched(place + rank, script, arguments, module) for rank in "01")
    try:
        output = _output(first)
        _output(second)
    finally:
        first.kill()
        second.kill()
    return output


def _launched(options: str, script: Path, arguments: Sequence[object], module: bool) -> subprocess.Popen[str]:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("torch was built without gloo, so two processes on a CPU cannot talk")
    command = [sys.executable, *LAUNCH.split(), *options.split(), *["--module"] * module, str(script)]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env={**os.environ, **VARIABLES},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _output(process: subprocess.Popen[str]) -> str:
    # five minutes, instead of for ever when the two do not find each other
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-4000:]
    return output
