"""Processes for tests that kill them: forked from a server that has imported everything already."""

from __future__ import annotations

import contextlib
import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

ROOT = Path(__file__).parents[1]


def forked(*modules: str) -> ForkServerContext:
    """A context whose server has imported these modules, if no other test of this process has started it before.

    The server finds modules from the folder that it is started in. Elsewhere `tests` might be another package,
    such as the one that baycomp installs, and stay so for every process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    with contextlib.chdir(ROOT):
        forkserver.ensure_running()
    return context
