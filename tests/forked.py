"""Processes for tests that kill them, forked from a server that has already imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

from kdcache.engine import forking
from kdcache.system.preloading import uncollected

ROOT = Path(__file__).parents[1]
# One list for all tests: the first to ask starts the server of the whole test process.
PRELOAD = uncollected(
    [
        *forking.PRELOAD,
        "kdcache.trials.teach",
        "transformers.models.bert.modeling_bert",
        "tests.logits.test_crashes",
        "tests.logits.tokens.test_crashes",
        "tests.trials.test_interrupted",
        "tests.trials.test_states",
        "tests.trials.test_student",
    ]
)


def forked() -> ForkServerContext:
    """A context whose server has imported what the tests that use it need, if no other code has started one before.

    The server looks for modules in the folder in which it is started. In another folder it might find another package
    `tests`, such as the one that baycomp installs, and keep it for every process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with contextlib.chdir(ROOT):
        forkserver.ensure_running()
    return context
