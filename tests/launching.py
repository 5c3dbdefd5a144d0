"""Scripts in two processes on the CPU, as `accelerate launch` starts them on several GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# Without --multi_gpu the launcher starts several processes on a CPU through MPI only; the variable below keeps them off
# any GPU. Port 0: a free one.
LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_machines 1 --num_processes 2 --main_process_port 0 "
    "--mixed_precision no --dynamo_backend no"
)


def run_in_two_processes(script: Path, *arguments: object, module: bool = False) -> str:
    """What the two processes print; fails with what they say when one of them does."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("torch was built without gloo, so two processes on a CPU cannot talk")
    variables = {
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, *LAUNCH.split(), *["--module"] * module, str(script), *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,  # instead of for ever, when the two do not find each other
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
