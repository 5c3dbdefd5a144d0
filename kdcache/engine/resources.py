"""A trial's share of a machine: how many trials run at once, and on how many threads each.

Each trial gets cores / workers threads, even if few trials are left to run. The number of threads can change a result's
last bits, and a resumed run has to compute the same as an uninterrupted one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from kdcache.errors import TrialError

WORKERS = "KDCACHE_WORKERS"
THREADS = "KDCACHE_THREADS"
GPUS_PER_TRIAL = "KDCACHE_GPUS_PER_TRIAL"

# Prefixes of the environment variables that a trial may depend on.
SETTINGS = ("KDCACHE_", "HF_", "TOKENIZERS_", "OMP_", "MKL_", "RAYON_")


def settings() -> dict[str, str]:
    """This process's environment variables that a trial may depend on."""
    return {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}


def take_over(given: Mapping[str, str]) -> None:
    """Replace this process's settings by these. A worker's own are old: they are from when its fork server started."""
    for name in settings().keys() - given.keys():
        del os.environ[name]
    os.environ.update(given)


def workers_asked_for() -> int | None:
    """How many trials at once KDCACHE_WORKERS asks for; None if it is not set.

    Raises:
        TrialError: KDCACHE_WORKERS is not a whole number above 0.
    """
    return _whole_number(WORKERS)


def threads_per_trial(workers: int) -> int:
    """CPU threads of each trial if `workers` run at once: KDCACHE_THREADS if set, else an equal share of the cores.

    Raises:
        TrialError: KDCACHE_THREADS is not a whole number above 0.
    """
    return _whole_number(THREADS) or max(1, cores() // workers)


def gpus_per_trial() -> float | None:
    """The share of a GPU that a trial reserves on a Ray cluster; None if KDCACHE_GPUS_PER_TRIAL is not set.

    Raises:
        TrialError: KDCACHE_GPUS_PER_TRIAL is not a number from 0 to 1.
    """
    text = os.environ.get(GPUS_PER_TRIAL)
    try:
        share = None if text is None else float(text)
    except ValueError:
        share = -1.0
    if share is not None and not 0 <= share <= 1:
        raise TrialError(f"{GPUS_PER_TRIAL} must be a number from 0 to 1, found {text!r}")
    return share


def cores() -> int:
    """The number of CPU cores that this process may use, by its affinity and its container's limit."""
    import joblib

    return int(joblib.cpu_count())


def share_cores() -> None:
    """Limit torch to the cores that this process may use, instead of all the machine's cores."""
    use_threads(cores())


def use_threads(threads: int) -> None:
    """Limit torch, Arrow and the tokenizers in this process to this many CPU threads.

    A lower limit, such as the user's OMP_NUM_THREADS, stays.
    """
    import pyarrow
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), threads))
    pyarrow.set_cpu_count(min(pyarrow.cpu_count(), threads))
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # for the tokenizers, which read it on first use


def _whole_number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is not None and not (text.isdecimal() and int(text)):
        raise TrialError(f"{variable} must be a whole number above 0, found {text!r}")
    return None if text is None else int(text)
