"""Devices: their names, peak memory, and bfloat16 support. torch is imported only inside functions that need it."""

from __future__ import annotations

import functools
import platform
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@functools.cache
def has_bfloat16(device: str) -> bool:
    """Whether the device (`cuda`, `cpu`) has instructions for bfloat16 matrix products; emulation does not count."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device == "cpu" else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def reset_peak_memory(device: torch.device) -> None:
    """Reset a GPU's peak memory; a CPU's cannot be reset."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: allocated on the GPU since `reset_peak_memory`, or on a CPU the process's resident set."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the device type (`cpu`)."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return device.type


def machine(threads: int) -> str:
    """The CPU's model and the number of threads, as in "Intel(R) Xeon(R), 2 thread(s)"."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {threads} thread(s)"
