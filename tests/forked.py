"""Processes for tests that kill them, forked from a server that has already imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

ROOT = Path(__file__).parents[1]


def forked(*modules: str) -> ForkServerContext:
    """A context whose server has imported these modules, if no other test of this process has started it before.

    The server looks for modules in the folder in which it is started. In another folder it might find another package
    `tests`, such as the one that baycomp installs, and keep it for every process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    with contextlib.chdir(ROOT):
        forkserver.ensure_running()
    return context
